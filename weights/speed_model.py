"""The form of the speed model: what a token takes is a sum of parts, each a quantity times a constant.

    decoding   bytes of weights, of experts, of keys and values, each over the bandwidth; and a time for every tensor,
               since each is at least one kernel, with nothing to read while it starts and ends
    prompt     operations over the rate: with quantised matrices (INT8), with those of experts, with matrices in floats
               (FP16, with sums in FP16 or FP32 as the matrices are F16 or BF16), and of attention (FP16)

`speed_constants.toml` has the constants, fitted on published figures by `tests/weights/speed_fit.py`; a constant of 1
would be the card's own rate. Cards are told apart by groups: Ampere takes longer from one kernel to the next than what
came after it, and workstation cards multiply at a lower clock than GeForce cards, for they may use less power.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from weights.cards import Card
from weights.token_work import TokenWork

DECODE_GROUPS: Final[Mapping[str, str]] = {
    "turing-geforce": "turing",
    "turing": "turing",
    "ampere-geforce": "ampere",
    "ampere": "ampere",
    "a100": "hbm",
    "hopper": "hbm",
    "ada-geforce": "recent",
    "ada": "recent",
    "blackwell-geforce": "recent",
    "blackwell": "recent",
    "cpu": "cpu",
}
PROMPT_GROUPS: Final[Mapping[str, str]] = {
    "turing-geforce": "turing",
    "turing": "turing",
    "ampere-geforce": "geforce",
    "ada-geforce": "geforce",
    "blackwell-geforce": "geforce",
    "ampere": "workstation",
    "ada": "workstation",
    "blackwell": "workstation",
    "a100": "hbm",
    "hopper": "hbm",
    "cpu": "cpu",
}


@dataclass(frozen=True, slots=True)
class Constants:
    """By the names of terms; errors by groups, and for `experts`, `floats` and `attention`. Errors are relative."""

    decode: Mapping[str, float]
    decode_error: Mapping[str, float]
    prompt: Mapping[str, float]
    prompt_error: Mapping[str, float]
    vllm: Mapping[str, float]


@cache
def constants() -> Constants:
    tables: dict[str, Any] = tomllib.loads(resources.files(__package__).joinpath("speed_constants.toml").read_text())
    return Constants(**tables)


def decode_terms(work: TokenWork, card: Card) -> dict[str, float]:
    """Quantities of one token when decoding: seconds at the card's bandwidth, and tensors."""
    bandwidth = card.bandwidth_bytes_per_s
    if card.is_cpu:
        return {"cpu": (work.n_weight_bytes + work.n_kv_bytes) / bandwidth, "tensor_cpu": work.n_tensors}
    return {
        "weights": (work.n_weight_bytes - work.n_expert_bytes) / bandwidth,
        "experts": work.n_expert_bytes / bandwidth,
        "kv": work.n_kv_bytes / bandwidth,
        f"tensor_{DECODE_GROUPS[card.family]}": work.n_tensors,
    }


def prompt_terms(work: TokenWork, card: Card) -> dict[str, float]:
    """Quantities of one token of a prompt: seconds at the card's rates."""
    if card.is_cpu:
        flops = work.quantized_flops + work.half_flops + work.float_flops + work.attention_flops
        return {"cpu": flops / card.tensor_flops_per_s}
    return {
        PROMPT_GROUPS[card.family]: (work.quantized_flops - work.expert_flops) / card.int8_ops_per_s,
        "experts": work.expert_flops / card.int8_ops_per_s,
        "floats": work.half_flops / card.half_flops_per_s + work.float_flops / card.tensor_flops_per_s,
        "attention": work.attention_flops / card.tensor_flops_per_s,
    }


def prompt_group(work: TokenWork, card: Card) -> str:
    """Whose error a prompt has: of the card's group, or of matrices in floats where they are most of it."""
    is_in_floats = work.half_flops + work.float_flops > work.quantized_flops and not card.is_cpu
    return "floats" if is_in_floats else PROMPT_GROUPS[card.family]


def step_terms(work: TokenWork, card: Card) -> dict[str, float]:
    """Quantities of a step of many tokens that only reads: all weights once. As in `decode_terms`."""
    seconds = work.n_step_bytes / card.bandwidth_bytes_per_s
    if card.is_cpu:
        return {"cpu": seconds, "tensor_cpu": work.n_tensors}
    return {"weights": seconds, f"tensor_{DECODE_GROUPS[card.family]}": work.n_tensors}


def seconds(terms: Mapping[str, float], factors: Mapping[str, float]) -> float:
    return sum(quantity * factors[name] for name, quantity in terms.items() if quantity)
