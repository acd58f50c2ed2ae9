"""What a GGUF file says of itself: the keys and values at its beginning, and nothing of its tensors.

    header   magic "GGUF", version uint32, number of tensors uint64, number of pairs uint64; then the pairs
    pair     key (string), kind uint32, value
    string   length uint64, UTF-8
    array    kind uint32, number of elements uint64, the elements; never read here, only stepped over

A file is read, not mapped, so one that is cut short meanwhile gives an error and not a signal. Versions 2 and 3 are
laid out alike; 1 had shorter counts and has not been written for years.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Final

_WINDOW_BYTES: Final = 1 << 18
_MOST_BYTES_OF_A_STRING: Final = 1 << 24  # the longest are chat templates, of some 100 kB
_MOST_STRINGS: Final = 1 << 24  # in one array; a vocabulary has some 100,000
_SMALLEST_PAIR_BYTES: Final = 13  # an empty key and one byte

_HEADER: Final = Struct("<4sIQQ")
_KIND: Final = Struct("<I")
_LENGTH: Final = Struct("<Q")
_STRING, _ARRAY = 8, 9
_CODES: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SCALARS: Final = {kind: Struct(f"<{code}") for kind, code in _CODES.items()}


class DamagedHeader(Exception):
    """The file is no GGUF that can be read; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Array:
    """An array that was stepped over; `kind` is GGUF's number of the type of its elements."""

    kind: int
    n_elements: int


Value = int | float | bool | str | Array


def read_metadata(path: Path, *keys: str) -> dict[str, Value]:
    """The pairs with these keys, or all pairs where none is named; a key that is not there is left out.

    Reads no further than the last of `keys`. Raises `DamagedHeader`, and OSError where the file cannot be read.
    """
    missing, found = set(keys), {}
    with path.open("rb", buffering=0) as file:
        for key, value in _pairs(_Window(file)):
            if not keys or key in missing:
                found[key] = value
                missing.discard(key)
            if keys and not missing:
                break
    return found


class _Window:
    """The file from front to back, a piece of it at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._n_bytes = os.fstat(file.fileno()).st_size
        self._buffer = b""
        self._start = 0  # of the buffer, in the file
        self._at = 0  # of the next byte, in the buffer

    @property
    def n_left(self) -> int:
        """Bytes of the file that were not taken yet."""
        return self._n_bytes - self._start - self._at

    def take(self, n_bytes: int) -> bytes:
        if self._at + n_bytes > len(self._buffer):
            self._refill(n_bytes)
        taken = self._buffer[self._at : self._at + n_bytes]
        self._at += n_bytes
        return taken

    def skip(self, n_bytes: int) -> None:
        if n_bytes > self.n_left:
            raise DamagedHeader("the file ends within its header")
        self._at += n_bytes

    def skip_strings(self, count: int) -> None:
        length_at = _LENGTH.unpack_from
        while count:
            if self._at + _LENGTH.size > len(self._buffer):
                self._refill(_LENGTH.size)
            buffer, at, last = self._buffer, self._at, len(self._buffer) - _LENGTH.size
            while count and at <= last:
                at += _LENGTH.size + length_at(buffer, at)[0]
                count -= 1
            self.skip(at - self._at)

    def _refill(self, n_bytes: int) -> None:
        if n_bytes > self.n_left:
            raise DamagedHeader("the file ends within its header")
        self._start += self._at
        self._file.seek(self._start)
        self._buffer, self._at = b"", 0
        while len(self._buffer) < n_bytes:
            piece = self._file.read(max(_WINDOW_BYTES, n_bytes))
            if not piece:  # it became shorter
                raise DamagedHeader("the file ends within its header")
            self._buffer += piece


def _pairs(window: _Window) -> Iterator[tuple[str, Value]]:
    for _ in range(_n_pairs(window)):
        key = _string(window)
        (kind,) = _KIND.unpack(window.take(_KIND.size))
        yield key, _value(window, kind)


def _n_pairs(window: _Window) -> int:
    if window.n_left < _HEADER.size:
        raise DamagedHeader("not a GGUF file: too short")
    magic, version, _, n_pairs = _HEADER.unpack(window.take(_HEADER.size))
    if magic != b"GGUF":
        raise DamagedHeader("not a GGUF file: it begins with something else")
    if version not in (2, 3):
        raise DamagedHeader(f"GGUF version {version} is not known here, or the file is of a big-endian machine")
    if n_pairs * _SMALLEST_PAIR_BYTES > window.n_left:
        raise DamagedHeader(f"{n_pairs} pairs cannot be in a file of this size")
    return int(n_pairs)


def _value(window: _Window, kind: int) -> Value:
    if kind == _STRING:
        return _string(window)
    if kind == _ARRAY:
        return _array(window)
    scalar = _SCALARS.get(kind)
    if scalar is None:
        raise DamagedHeader(f"a value is of the unknown kind {kind}")
    value: int | float | bool = scalar.unpack(window.take(scalar.size))[0]
    return value


def _string(window: _Window) -> str:
    (n_bytes,) = _LENGTH.unpack(window.take(_LENGTH.size))
    if n_bytes > min(window.n_left, _MOST_BYTES_OF_A_STRING):
        raise DamagedHeader(f"a string of {n_bytes} bytes cannot be in the header of this file")
    return window.take(n_bytes).decode(errors="replace")


def _array(window: _Window) -> Array:
    (kind,) = _KIND.unpack(window.take(_KIND.size))
    (n_elements,) = _LENGTH.unpack(window.take(_LENGTH.size))
    if kind == _STRING:
        if n_elements > min(window.n_left // _LENGTH.size, _MOST_STRINGS):
            raise DamagedHeader(f"{n_elements} strings cannot be in the header of this file")
        window.skip_strings(n_elements)
    elif kind in _SCALARS:
        window.skip(n_elements * _SCALARS[kind].size)
    else:
        raise DamagedHeader(f"an array has elements of the unknown kind {kind}")
    return Array(kind, n_elements)
