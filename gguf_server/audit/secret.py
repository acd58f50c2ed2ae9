"""The key file of an audit, and the keys that are made of it, one for each use."""

from __future__ import annotations

import hmac
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_N_BYTES: Final = 32
_HEX: Final = re.compile(r"[0-9a-f]{64}")


class AuditError(Exception):
    """An audit that cannot be kept or read, with what to do about it."""


@dataclass(frozen=True, slots=True)
class AuditKeys:
    """`chain` seals lines, `head` the file that says where the chain ends, `prompt` hides prompts."""

    chain: bytes = field(repr=False)
    head: bytes = field(repr=False)
    prompt: bytes = field(repr=False)


def derive(secret: bytes) -> AuditKeys:
    return AuditKeys(*(hmac.digest(secret, use, "sha256") for use in (b"chain", b"head", b"prompt")))


def load(path: Path) -> AuditKeys:
    """Raises `AuditError` for a file that is not there, that others may read, or that holds no key."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError as exc:
        raise AuditError(f"{path}: the audit's key is not there") from exc
    except OSError as exc:
        raise AuditError(f"{path}: {exc.strerror}") from exc
    if mode & 0o077:
        raise AuditError(f"{path}: others than its owner may read or write the audit's key: chmod 600 {path}")
    if not _HEX.fullmatch(text):
        raise AuditError(f"{path}: not a key of an audit: expected {2 * _N_BYTES} digits of 0-9a-f")
    return derive(bytes.fromhex(text))


def load_or_make(path: Path, *, may_make: bool) -> AuditKeys:
    """Raises `AuditError`, also where there is no key and none may be made, as lines of another are there already."""
    if path.exists() or not may_make:
        return load(path)
    return make(path)


def make(path: Path) -> AuditKeys:
    """A new key in a new file that its owner alone can read. Raises `AuditError`."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_N_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        raise AuditError(f"{exc.filename or path}: {exc.strerror}") from exc
    return load(path)
