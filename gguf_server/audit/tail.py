"""The end of an audit file: its last whole line, and what a crash left of one that was not finished."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

_BLOCK_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Tail:
    """`last`: the last whole line without its newline, None if there is none; `torn`: the bytes after it.

    `end`: the offset where they begin, and where the next line belongs.
    """

    last: bytes | None
    torn: bytes
    end: int


def read_tail(descriptor: int) -> Tail:
    """Reads backwards as far as it must. Raises `OSError`."""
    size = start = os.fstat(descriptor).st_size
    found = b""
    while start > 0 and found.count(b"\n") < 2:
        n = min(_BLOCK_BYTES, start)
        start -= n
        found = _read(descriptor, n, start) + found
    whole, newline, torn = found.rpartition(b"\n")
    last = whole.rpartition(b"\n")[2] if newline else None
    return Tail(last, torn, size - len(torn))


def _read(descriptor: int, n_bytes: int, offset: int) -> bytes:
    parts = []
    while n_bytes > 0:
        part = os.pread(descriptor, n_bytes, offset)
        if not part:
            break
        parts.append(part)
        n_bytes -= len(part)
        offset += len(part)
    return b"".join(parts)
