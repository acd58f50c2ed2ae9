"""The beginnings of GGUF files, made by hand."""

from __future__ import annotations

import struct
from collections.abc import Mapping

U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10


def text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def string(value: str) -> bytes:
    return struct.pack("<I", STRING) + text(value)


def number(value: int) -> bytes:
    return struct.pack("<II", U32, value)


def strings(*values: str) -> bytes:
    return struct.pack("<IIQ", ARRAY, STRING, len(values)) + b"".join(map(text, values))


def floats(*values: float) -> bytes:
    return struct.pack(f"<IIQ{len(values)}f", ARRAY, F32, len(values), *values)


def gguf(pairs: Mapping[str, bytes], *, version: int = 3, magic: bytes = b"GGUF", n_pairs: int | None = None) -> bytes:
    """A header whose values are made by the functions above; no tensors."""
    head = struct.pack("<4sIQQ", magic, version, 0, len(pairs) if n_pairs is None else n_pairs)
    return head + b"".join(text(key) + value for key, value in pairs.items())


def of_architecture(name: str) -> bytes:
    return gguf({"general.architecture": string(name)})
