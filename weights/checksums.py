"""The checksums by which the hub knows its files, and by which its cache names them.

64 hex digits    SHA-256 of the content: large files
40 hex digits    what git calls the file: SHA-1 of "blob SIZE", a zero byte and the content
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

Advance = Callable[[int], None]  # told how many bytes were done since it was last told

_CHECKSUM: Final = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
_PIECE_BYTES: Final = 1 << 20


def is_checksum(text: str) -> bool:
    return _CHECKSUM.fullmatch(text) is not None


class Digest:
    """A running checksum of the kind of `checksum`, over a file of `n_bytes`."""

    def __init__(self, checksum: str, n_bytes: int) -> None:
        if len(checksum) == 64:
            self._hash = hashlib.sha256()
        else:
            self._hash = hashlib.sha1(usedforsecurity=False)
            self._hash.update(f"blob {n_bytes}\0".encode())

    def update(self, piece: bytes) -> None:
        self._hash.update(piece)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def checksum_of(path: Path, like: str, advance: Advance = lambda _: None) -> str:
    """The checksum of a whole file, of the same kind as `like`. Reads all of it; raises OSError."""
    digest = Digest(like, path.stat().st_size)
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            advance(len(piece))
    return digest.hexdigest()
