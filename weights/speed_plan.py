"""How fast llama.cpp will be with a model on a card, known before anything is loaded; and vLLM with a GGUF file.

The whole model is on the card, and one request runs. docs/planner-speed.md sets predictions beside published figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot
from typing import Final

from weights.cards import Card
from weights.gguf_model import GgufModel
from weights.speed_model import (
    DECODE_GROUPS,
    constants,
    decode_terms,
    prompt_group,
    prompt_terms,
    seconds,
    step_terms,
)
from weights.token_work import TokenWork, token_work

_STEP_TOKENS: Final = 512  # llama.cpp's `n_ubatch`
_SMALL_BYTES: Final = 1e9  # that a token reads; the figures that the constants stand on are of larger models
_SMALL_ERROR: Final = 0.5


@dataclass(frozen=True, slots=True)
class SpeedPlan:
    """Nine of ten figures should lie within the relative error on either side; 0.2 is 20 %."""

    decode_tokens_per_s: float
    decode_relative_error: float
    prompt_tokens_per_s: float
    prompt_relative_error: float


def plan_speed(model: GgufModel, card: Card, *, context: int, type_k: str = "f16", type_v: str = "f16") -> SpeedPlan:
    """Tokens made after `context` others, and tokens read of a prompt of `context` tokens.

    Raises ValueError for a file without the weights of a language model, a context below 1, and a KV type that is none.
    """
    if context < 1:
        raise ValueError("the context has to be at least 1 token")
    work = token_work(model, decode_at=context, prompt_from=0, prompt_to=context, type_k=type_k, type_v=type_v)
    return SpeedPlan(
        decode_tokens_per_s=decode_tokens_per_s(work, card),
        decode_relative_error=decode_relative_error(work, card),
        prompt_tokens_per_s=prompt_tokens_per_s(work, card, context),
        prompt_relative_error=prompt_relative_error(work, card),
    )


def plan_vllm_speed(model: GgufModel, card: Card, *, context: int) -> SpeedPlan | None:
    """As `plan_speed`, for vLLM with the GGUF file itself, whose kernels are llama.cpp's of early 2024.

    None on a processor, where vLLM has no kernels for such files. The errors are wide: few figures are known.
    """
    if card.is_cpu:
        return None
    ours, vllm = plan_speed(model, card, context=context), constants().vllm
    return SpeedPlan(
        decode_tokens_per_s=ours.decode_tokens_per_s * vllm["decode"],
        decode_relative_error=max(ours.decode_relative_error, vllm["decode_error"]),
        prompt_tokens_per_s=ours.prompt_tokens_per_s * vllm["prompt"],
        prompt_relative_error=max(ours.prompt_relative_error, vllm["prompt_error"]),
    )


def decode_tokens_per_s(work: TokenWork, card: Card) -> float:
    return 1 / seconds(decode_terms(work, card), constants().decode)


def prompt_tokens_per_s(work: TokenWork, card: Card, n_prompt: int) -> float:
    """A step takes as long as its arithmetic, or as the reading of all weights where there are few tokens for it."""
    n_steps = -(-n_prompt // _STEP_TOKENS)
    computing_s = n_prompt * seconds(prompt_terms(work, card), constants().prompt)
    reading_s = n_steps * seconds(step_terms(work, card), constants().decode)
    return n_prompt / max(computing_s, reading_s)


def decode_relative_error(work: TokenWork, card: Card) -> float:
    errors = constants().decode_error
    known = max(errors[DECODE_GROUPS[card.family]], errors["experts"] if work.n_expert_bytes else 0.0)
    return max(known, _SMALL_ERROR) if work.n_weight_bytes < _SMALL_BYTES else known


def prompt_relative_error(work: TokenWork, card: Card) -> float:
    """Attention's own error counts by its share of the time."""
    factors, errors = constants().prompt, constants().prompt_error
    terms = prompt_terms(work, card)
    share = terms.get("attention", 0.0) * factors["attention"] / seconds(terms, factors)
    matrices = max(errors[prompt_group(work, card)], errors["experts"] if work.expert_flops else 0.0)
    known = hypot(matrices, share * errors["attention"])
    return max(known, _SMALL_ERROR) if work.n_weight_bytes < _SMALL_BYTES else known
