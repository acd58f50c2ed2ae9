"""The type that llama.cpp's quantiser gives a tensor, by the name of the mix (`llama_tensor_get_type`).

Only what the mixes here need: no importance matrix, no mixes of eight experts, no attention with fused matrices.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import Final

_BASES: Final = {"Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K", "Q4_K_S": "Q4_K"}
_MORE_BITS: Final = {"Q4_K_M": "Q6_K", "Q5_K_M": "Q6_K"}
_KEPT: Final = re.compile(r".*(_norm\.weight|ffn_gate_inp\.weight|\.bias|\.scale)|rope_freqs\.weight")
_BLOCK: Final = {"F32": 1, "F16": 1, "BF16": 1, "Q4_0": 32, "Q4_1": 32, "Q5_0": 32, "Q8_0": 32, "MXFP4": 32}
_LARGE_BLOCK: Final = 256


def tensor_type(mix: str, name: str, shape: Sequence[int], n_layers: int, *, tied: bool) -> str:
    """`mix` as in file names (`Q4_K_M`), or a type that all matrices have (`Q8_0`, `F16`), or `MXFP4_MOE`."""
    if _KEPT.fullmatch(name) or len([n for n in shape if n > 1]) < 2:
        return "F32"
    if name == "per_layer_model_proj.weight":
        return "BF16"
    type_ = _of_matrix(mix, name, shape, n_layers, tied=tied)
    if shape[0] % _BLOCK.get(type_, _LARGE_BLOCK):
        return {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}.get(type_, "F16")
    return type_


def _of_matrix(mix: str, name: str, shape: Sequence[int], n_layers: int, *, tied: bool) -> str:
    base = _BASES.get(mix, mix)
    if mix == "MXFP4_MOE":
        return "MXFP4" if len(shape) > 2 and prod(shape[2:]) > 1 else "Q8_0"
    if name == "output.weight" or (tied and name.endswith("token_embd.weight")):
        return base if base in ("BF16", "F16", "F32", "Q8_0") else "Q6_K"
    match = re.fullmatch(r"blk\.(\d+)\.(attn_v|ffn_down|ffn_down_exps)\.weight", name)
    if match and mix in _MORE_BITS and _has_more_bits(int(match[1]), n_layers):
        return _MORE_BITS[mix]
    return base


def _has_more_bits(layer: int, n_layers: int) -> bool:
    """The first and last eighth of the layers, and every third between."""
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2
