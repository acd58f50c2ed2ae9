"""Where an engine listens: a UNIX socket of its own in a folder that nobody else may read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from backends.base import EngineFailure, FailureReason

_MAX_SOCKET_PATH_BYTES = 100  # the kernel's own limit is 108, its end included


def new_socket(runtime_dir: Path) -> Path:
    """A path that is not in use. Makes `runtime_dir` where it is not there; raises `EngineFailure`."""
    try:
        runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EngineFailure(FailureReason.INVALID_SETTINGS, f"no runtime directory: {error}") from error
    socket = runtime_dir / f"{secrets.token_hex(6)}.sock"
    if len(os.fsencode(socket)) > _MAX_SOCKET_PATH_BYTES:
        detail = f"the path of the runtime directory is too long for a socket: {runtime_dir}"
        raise EngineFailure(FailureReason.INVALID_SETTINGS, detail)
    return socket
