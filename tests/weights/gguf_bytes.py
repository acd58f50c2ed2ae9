"""GGUF files, or their beginnings, made by hand."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from weights.gguf_tensors import TYPES, tensor

U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10

TensorShape = tuple[str, tuple[int, ...], str]
"""Name, shape with the contiguous dimension first, type."""

_NUMBERS = {name: kind for kind, (name, _, _) in TYPES.items()}


def text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def string(value: str) -> bytes:
    return struct.pack("<I", STRING) + text(value)


def number(value: int) -> bytes:
    return struct.pack("<II", U32, value)


def real(value: float) -> bytes:
    return struct.pack("<If", F32, value)


def flag(value: bool) -> bytes:
    return struct.pack("<I?", BOOL, value)


def fraction(value: float) -> bytes:
    return struct.pack("<If", F32, value)


def strings(*values: str) -> bytes:
    return struct.pack("<IIQ", ARRAY, STRING, len(values)) + b"".join(map(text, values))


def floats(*values: float) -> bytes:
    return struct.pack(f"<IIQ{len(values)}f", ARRAY, F32, len(values), *values)


def numbers(*values: int) -> bytes:
    return struct.pack(f"<IIQ{len(values)}I", ARRAY, U32, len(values), *values)


def flags(*values: bool) -> bytes:
    return struct.pack(f"<IIQ{len(values)}?", ARRAY, BOOL, len(values), *values)


def gguf(
    pairs: Mapping[str, bytes],
    tensors: Sequence[bytes] = (),
    *,
    version: int = 3,
    magic: bytes = b"GGUF",
    n_pairs: int | None = None,
    n_tensors: int | None = None,
) -> bytes:
    """A header whose values are made by the functions above, and whose tensors by the one below."""
    counts = (len(tensors) if n_tensors is None else n_tensors, len(pairs) if n_pairs is None else n_pairs)
    head = struct.pack("<4sIQQ", magic, version, *counts)
    return head + b"".join(text(key) + value for key, value in pairs.items()) + b"".join(tensors)


def tensor_info(name: str, shape: Sequence[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def of_architecture(name: str) -> bytes:
    return gguf({"general.architecture": string(name)})


def model_file(path: Path, pairs: Mapping[str, bytes], tensors: Sequence[TensorShape] = ()) -> Path:
    """A file as large as its tensors, which takes no room on a disk: their data is a hole."""
    infos, end = [], 0
    for name, shape, type_ in tensors:
        infos.append(tensor_info(name, shape, _NUMBERS[type_], end))
        end += _aligned(tensor(name, shape, _NUMBERS[type_]).n_bytes)
    head = gguf(pairs, infos)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(_aligned(len(head)) + end)
    return path


def hyperparameters(architecture: str, **values: int | Sequence[int] | Sequence[bool]) -> dict[str, bytes]:
    """The pairs of a model; names have `__` for a dot. What a model must have has a default."""
    given: dict[str, int | Sequence[int] | Sequence[bool]] = {
        "block_count": 4,
        "context_length": 4096,
        "embedding_length": 64,
        "feed_forward_length": 128,
        "attention__head_count": 4,
        **values,
    }
    pairs = {f"{architecture}.{name.replace('__', '.')}": _packed(value) for name, value in given.items()}
    return {"general.architecture": string(architecture), **pairs}


def _packed(value: int | Sequence[int] | Sequence[bool]) -> bytes:
    if isinstance(value, int):
        return number(value)
    return flags(*map(bool, value)) if isinstance(value[0], bool) else numbers(*value)


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // 32) * 32
