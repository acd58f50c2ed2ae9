"""What speed to expect of a model on the card that NVML names, or on this machine's processor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from gguf_server.planning import ExpectedSpeed, Room
from weights.cards import Card, find
from weights.gguf_model import GgufModel
from weights.load_settings import LoadSettings
from weights.speed_plan import SpeedPlan, plan_speed, plan_vllm_speed

Found = tuple[ExpectedSpeed | None, str | None]
"""A speed, or why there is none."""

_PROMPT_TOKENS: Final = 512
_SEVERAL: Final = "several cards share the work: no speed is planned for that"
_SHARED: Final = "a part of the layers is not on the card: no speed is planned for that"
_NO_GGUF: Final = "no speed is planned for vLLM with anything but a GGUF"


def card_speed(model: GgufModel, settings: LoadSettings, room: Room) -> Found:
    """Of llama.cpp on a card."""
    if 0 <= settings.n_gpu_layers <= model.n_layers:
        return None, _SHARED
    card, why = _card(room)
    return (None, why) if card is None else _found(model, settings, card)


def processor_speed(model: GgufModel, settings: LoadSettings, n_threads: int | None) -> Found:
    """Of llama.cpp on this machine's processor, which is measured: that takes half a second, once in a process."""
    from weights import cpu_probe  # numpy is of no use to a gateway whose engines all have cards

    return _found(model, settings, cpu_probe.measure(n_threads))


def vllm_speed(model: GgufModel | None, room: Room, n_ctx: int) -> Found:
    """Of vLLM, with a GGUF."""
    if model is None:
        return None, _NO_GGUF
    card, why = _card(room)
    return (None, why) if card is None else _expected(partial(plan_vllm_speed, model, card), n_ctx)


def _found(model: GgufModel, settings: LoadSettings, card: Card) -> Found:
    plan = partial(plan_speed, model, card, type_k=settings.type_k, type_v=settings.type_v)
    return _expected(plan, settings.n_ctx)


def _expected(plan: Callable[..., SpeedPlan | None], n_ctx: int) -> Found:
    """The time of a token grows with what is before it, so that two contexts tell all of them."""
    try:
        first, last, prompt = (plan(context=n) for n in (1, n_ctx, min(_PROMPT_TOKENS, n_ctx)))
    except ValueError as error:
        return None, f"no speed is planned: {error}"
    if first is None or last is None or prompt is None:
        return None, "no speed is planned for this engine here"
    token_s = 1.0 / first.decode_tokens_per_s
    grown_s = max(0.0, 1.0 / last.decode_tokens_per_s - token_s)
    speed = ExpectedSpeed(
        token_s=token_s,
        context_token_s=grown_s / n_ctx,
        error=first.decode_relative_error,
        prompt_tokens_per_s=prompt.prompt_tokens_per_s,
    )
    return speed, None


def _card(room: Room) -> tuple[Card | None, str | None]:
    if len(room.cards) != 1:
        return None, _SEVERAL
    seen = room.cards[0]
    card = find(seen.name, seen.total_bytes)
    return (card, None) if card else (None, f"the catalogue has no {seen.name}: no speed is planned for it")
