"""What a GGUF file says of itself: the keys and values at its beginning, and what tensors follow; never their data.

    header   magic "GGUF", version uint32, number of tensors uint64, number of pairs uint64; the pairs, the tensors
    pair     key (string), kind uint32, value
    string   length uint64, UTF-8
    array    kind uint32, number of elements uint64, the elements; short ones of numbers are read, others stepped over
    tensor   name (string), number of dimensions uint32, each uint64, type uint32, offset into the data uint64
    data     begins at the next multiple of `general.alignment` (32), as does every tensor in it

A file is read, not mapped, so one that is cut short meanwhile gives an error and not a signal. Versions 2 and 3 are
laid out alike; 1 had shorter counts and has not been written for years.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Final

from weights.gguf_tensors import Tensor, tensor
from weights.other_formats import what_it_is

_WINDOW_BYTES: Final = 1 << 18
_MOST_BYTES_OF_A_STRING: Final = 1 << 24  # the longest are chat templates, of some 100 kB
_MOST_BYTES_OF_A_KEY: Final = 1 << 16
_MOST_BYTES_OF_ALL_STRINGS: Final = 1 << 26  # that are kept
_MOST_STRINGS: Final = 1 << 24  # in all arrays; a vocabulary has some 100,000
_MOST_NUMBERS_READ: Final = 1024  # of one array; lists with a number for each layer are read, scores of tokens not
_MOST_PAIRS: Final = 1 << 16
_MOST_TENSORS: Final = 1 << 18
_SMALLEST_PAIR_BYTES: Final = 13  # an empty key and one byte
_SMALLEST_TENSOR_BYTES: Final = 24  # an empty name and no dimensions
_MOST_BYTES_OF_A_NAME: Final = 63  # and a zero: GGML_MAX_NAME
_MOST_DIMENSIONS: Final = 4  # GGML_MAX_DIMS
_DEFAULT_ALIGNMENT: Final = 32

_HEADER: Final = Struct("<4sIQQ")
_KIND: Final = Struct("<I")
_LENGTH: Final = Struct("<Q")
_TYPE_AND_OFFSET: Final = Struct("<IQ")
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


Number = int | float | bool
Value = Number | str | Array | tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """All that stands before the data; `n_bytes` is the size of the whole file."""

    n_bytes: int
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]


def read_header(path: Path) -> Header:
    """Everything that a file says before its data.

    Raises `DamagedHeader`, also where the file is too short for its tensors, and OSError where it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        window = _Window(file)
        n_tensors, n_pairs = _counts(window)
        metadata: dict[str, Value] = {}
        for key, value in _pairs(window, n_pairs):
            if key in metadata:
                raise DamagedHeader(f"it has the key {key[:80]!r} twice")
            metadata[key] = value
        tensors = _tensors(window, n_tensors, _alignment(metadata))
        return Header(window.n_bytes, metadata, tensors)


def read_metadata(path: Path, *keys: str) -> dict[str, Value]:
    """The pairs with these keys, or all pairs where none is named; a key that is not there is left out.

    Reads no further than the last of `keys`. Raises `DamagedHeader`, and OSError where the file cannot be read.
    """
    missing, found = set(keys), {}
    with path.open("rb", buffering=0) as file:
        window = _Window(file)
        _, n_pairs = _counts(window)
        for key, value in _pairs(window, n_pairs):
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
        self.n_bytes: Final = os.fstat(file.fileno()).st_size
        self.n_string_bytes = 0  # of strings taken so far
        self.n_skipped_strings = 0
        self._buffer = b""
        self._start = 0  # of the buffer, in the file
        self._at = 0  # of the next byte, in the buffer

    @property
    def n_left(self) -> int:
        """Bytes of the file that were not taken yet."""
        return self.n_bytes - self.n_taken

    @property
    def n_taken(self) -> int:
        return self._start + self._at

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


def _counts(window: _Window) -> tuple[int, int]:
    """How many tensors and how many pairs there are."""
    if window.n_left < _HEADER.size:
        raise DamagedHeader("not a GGUF file: too short")
    beginning = window.take(_HEADER.size)
    magic, version, n_tensors, n_pairs = _HEADER.unpack(beginning)
    if magic != b"GGUF":
        raise DamagedHeader(f"not a GGUF file: it begins with something else{what_it_is(beginning)}")
    if version not in (2, 3):
        raise DamagedHeader(f"GGUF version {version} is not known here, or the file is of a big-endian machine")
    if n_pairs > min(window.n_left // _SMALLEST_PAIR_BYTES, _MOST_PAIRS):
        raise DamagedHeader(f"{n_pairs} pairs cannot be in a file of this size")
    if n_tensors > min(window.n_left // _SMALLEST_TENSOR_BYTES, _MOST_TENSORS):
        raise DamagedHeader(f"{n_tensors} tensors cannot be in a file of this size")
    return n_tensors, n_pairs


def _pairs(window: _Window, n_pairs: int) -> Iterator[tuple[str, Value]]:
    for _ in range(n_pairs):
        key = _string(window, _MOST_BYTES_OF_A_KEY)
        (kind,) = _KIND.unpack(window.take(_KIND.size))
        yield key, _value(window, kind)


def _value(window: _Window, kind: int) -> Value:
    if kind == _STRING:
        return _string(window)
    if kind == _ARRAY:
        return _array(window)
    scalar = _SCALARS.get(kind)
    if scalar is None:
        raise DamagedHeader(f"a value is of the unknown kind {kind}")
    value: Number = scalar.unpack(window.take(scalar.size))[0]
    return value


def _string(window: _Window, n_most: int = _MOST_BYTES_OF_A_STRING) -> str:
    (n_bytes,) = _LENGTH.unpack(window.take(_LENGTH.size))
    if n_bytes > min(window.n_left, n_most):
        raise DamagedHeader(f"a string of {n_bytes} bytes cannot be in the header of this file")
    window.n_string_bytes += n_bytes
    if window.n_string_bytes > _MOST_BYTES_OF_ALL_STRINGS:
        raise DamagedHeader("its header holds more text than any model's does")
    return window.take(n_bytes).decode(errors="replace")


def _array(window: _Window) -> Array | tuple[Number, ...]:
    (kind,) = _KIND.unpack(window.take(_KIND.size))
    (n_elements,) = _LENGTH.unpack(window.take(_LENGTH.size))
    if kind == _STRING:
        window.n_skipped_strings += n_elements
        if n_elements > window.n_left // _LENGTH.size or window.n_skipped_strings > _MOST_STRINGS:
            raise DamagedHeader(f"{n_elements} strings cannot be in the header of this file")
        window.skip_strings(n_elements)
    elif kind in _SCALARS and n_elements <= _MOST_NUMBERS_READ:
        numbers = Struct(f"<{n_elements}{_CODES[kind]}")
        return numbers.unpack(window.take(numbers.size))
    elif kind in _SCALARS:
        window.skip(n_elements * _SCALARS[kind].size)
    else:
        raise DamagedHeader(f"an array has elements of the unknown kind {kind}")
    return Array(kind, n_elements)


def _alignment(metadata: Mapping[str, Value]) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise DamagedHeader(f"its data cannot be aligned to {alignment} bytes")
    return alignment


def _tensors(window: _Window, n_tensors: int, alignment: int) -> tuple[Tensor, ...]:
    """They lie one after another, each at the first place that is aligned: llama.cpp takes no other order either."""
    tensors, names, n_data_bytes = [], set(), 0
    for _ in range(n_tensors):
        found, offset = _tensor(window)
        if found.name in names:
            raise DamagedHeader(f"it has the tensor {found.name!r} twice")
        if offset != (expected := _aligned(n_data_bytes, alignment)):
            raise DamagedHeader(f"the tensor {found.name!r} lies at {offset} of the data, and not at {expected}")
        names.add(found.name)
        tensors.append(found)
        n_data_bytes = offset + found.n_bytes
    if tensors and (n_needed := _aligned(window.n_taken, alignment) + n_data_bytes) > window.n_bytes:
        raise DamagedHeader(f"it is cut short: {window.n_bytes} bytes of {n_needed}; fetch it again")
    return tuple(tensors)


def _tensor(window: _Window) -> tuple[Tensor, int]:
    """A tensor, and where it lies in the data."""
    name = _string(window, _MOST_BYTES_OF_A_NAME)
    (n_dimensions,) = _KIND.unpack(window.take(_KIND.size))
    if n_dimensions > _MOST_DIMENSIONS:
        raise DamagedHeader(f"the tensor {name!r} has {n_dimensions} dimensions")
    dimensions = Struct(f"<{n_dimensions}Q")
    shape = dimensions.unpack(window.take(dimensions.size))
    kind, offset = _TYPE_AND_OFFSET.unpack(window.take(_TYPE_AND_OFFSET.size))
    try:
        return tensor(name, shape, kind), offset
    except ValueError as error:
        raise DamagedHeader(str(error)) from error


def _aligned(n_bytes: int, alignment: int) -> int:
    return -(-n_bytes // alignment) * alignment
