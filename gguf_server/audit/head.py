"""`FILE.head`, beside the audit: where its chain ends, so that lines cut off at the end are missed.

It is written after the lines that it speaks of are on the disk, so it may be behind them, never ahead.
"""

from __future__ import annotations

import hmac
import os
from pathlib import Path

import orjson

from gguf_server.audit.chain import Position, mac_of
from gguf_server.audit.secret import AuditError


class HeadDamaged(AuditError):
    """A head that was not written with this key, or was changed since."""


def head_path(audit: Path) -> Path:
    return audit.with_name(audit.name + ".head")


def read_head(key: bytes, audit: Path) -> Position | None:
    """None where there is none. Raises `HeadDamaged`, and `AuditError` where it cannot be read."""
    path = head_path(audit)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise AuditError(f"{path}: {exc.strerror}") from exc
    body, _, mac = raw.partition(b"\n")
    if not hmac.compare_digest(mac_of(key, body).encode() + b"\n", mac):
        raise HeadDamaged(f"{path}: not as it was written, or of another key")
    said = orjson.loads(body)
    return Position(said["seq"], said["last"])


def write_head(key: bytes, audit: Path, position: Position) -> None:
    """Replaces it at once and durably. Raises `OSError`."""
    path = head_path(audit)
    body = orjson.dumps({"seq": position.seq, "last": position.mac})
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(body + b"\n" + mac_of(key, body).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
