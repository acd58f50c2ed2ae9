"""The tensors of a GGUF file by name, shape and type; their sizes follow from the types' blocks.

A row of a quantised tensor is made of blocks: so many values in so many bytes (ggml's `ggml_type`, `GGML_QUANT_SIZES`
of gguf-py). The numbers that are missing were types once and are read by nobody any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

TYPES: Final[dict[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}
"""By ggml's number of the type: its name, values in a block, bytes of a block."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """`shape` as ggml counts, the dimension that is contiguous in memory first; `type` as in `Q4_K`."""

    name: str
    shape: tuple[int, ...]
    type: str
    n_bytes: int

    @property
    def n_elements(self) -> int:
        return prod(self.shape)


def tensor(name: str, shape: Sequence[int], kind: int) -> Tensor:
    """Raises ValueError where there is no such type, or a row is no whole number of blocks."""
    if kind not in TYPES:
        raise ValueError(f"the tensor {name!r} is of the unknown type {kind}")
    type_name, n_values, n_bytes = TYPES[kind]
    n_in_row = shape[0] if shape else 1
    if n_in_row % n_values:
        raise ValueError(
            f"the tensor {name!r} has rows of {n_in_row} values, and {type_name} takes {n_values} at a time"
        )
    return Tensor(name, tuple(shape), type_name, prod(shape) // n_values * n_bytes)
