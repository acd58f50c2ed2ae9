"""Which files were found to be whole, so that 9 GB need not be read again at each start.

A mark says: the file that was here, of this size, written at these times, had this checksum. Whatever writes to a file
changes its times, so a mark that fits is as good as reading the file, and one that does not fit is none. Marks are in
the state directory; where they cannot be written, files are merely read more often.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def folder(environ: Mapping[str, str] = os.environ) -> Path:
    state = environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "gguf-server" / "checked"


def is_marked(path: Path, checksum: str) -> bool:
    """Whether this very content was found to have `checksum`. Raises OSError where `path` cannot be looked at."""
    now = _as_it_is(path, checksum)
    try:
        return bool(json.loads(_mark_of(path).read_bytes()) == now)
    except (OSError, ValueError, RuntimeError):  # RuntimeError: nobody's home
        return False


def mark(path: Path, checksum: str) -> None:
    """Call it after the file was read and has `checksum`."""
    as_it_is = json.dumps(_as_it_is(path, checksum))
    with contextlib.suppress(OSError, RuntimeError):
        folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=folder(), delete=False) as file:
            file.write(as_it_is)
        Path(file.name).replace(_mark_of(path))


def _mark_of(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    return folder() / f"{name}.json"


def _as_it_is(path: Path, checksum: str) -> dict[str, str | int]:
    stat = path.stat()
    return {
        "path": str(path.resolve()),
        "checksum": checksum,
        "n_bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
        "inode": stat.st_ino,
    }
