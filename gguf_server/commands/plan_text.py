"""A plan as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gguf_server.commands.plan_card import PlanCard
from weights.memory_plan import MemoryPlan
from weights.speed_plan import SpeedPlan

_GIB: Final = 1 << 30
_MIB: Final = 1 << 20
_WIDTH: Final = 28
_COLUMN: Final = 14


@dataclass(frozen=True, slots=True)
class Said:
    """What vLLM would say at its start."""

    refusal: str | None
    kv_bytes: int
    n_requests: float
    n_kv_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Everything that is known before a load. `speed` is that of one stream, behind `speed_context` tokens."""

    model: str
    card: PlanCard | None
    engine: str
    settings: Mapping[str, object]
    memory: MemoryPlan
    speed: SpeedPlan | None
    speed_context: int
    notes: tuple[str, ...] = ()
    vllm: Said | None = None


def as_lines(forecast: Forecast) -> Iterator[str]:
    card = forecast.card
    yield f"model    {_printable(forecast.model)}"
    yield f"card     {f'{card.name}, {_size(card.memory_bytes)}' if card else 'none: everything on the host'}"
    settings = ", ".join(f"{name} {value}" for name, value in forecast.settings.items() if value is not None)
    yield f"engine   {forecast.engine}: {settings}"
    yield ""
    yield from _table(forecast.memory)
    yield ""
    yield _verdict(forecast)
    for line in forecast.memory.advice:
        yield f"  {line}"
    yield from _speed(forecast)
    for note in forecast.notes:
        yield f"note     {note}"


def _table(memory: MemoryPlan) -> Iterator[str]:
    yield f"{'':<{_WIDTH}}{'card':>{_COLUMN}}{'host':>{_COLUMN}}"
    for part in memory.parts:
        yield f"{part.name:<{_WIDTH}}{_size(part.gpu_bytes):>{_COLUMN}}{_size(part.host_bytes):>{_COLUMN}}"
    yield f"{'together':<{_WIDTH}}{_size(memory.gpu_bytes):>{_COLUMN}}{_size(memory.host_bytes):>{_COLUMN}}"


def _verdict(forecast: Forecast) -> str:
    memory, vllm = forecast.memory, forecast.vllm
    if vllm is not None:
        if vllm.refusal is not None:
            return f"fits     no: {vllm.refusal}{_instead(memory)}"
        tokens = f", {vllm.n_kv_tokens:,} tokens" if vllm.n_kv_tokens else ""
        return f"fits     yes: {vllm.n_requests:.1f} requests of full length at once{tokens}"
    if memory.margin_bytes is None:
        return f"needs    {_size(memory.host_bytes)} of the host's memory"
    if memory.fits:
        return f"fits     yes, with {_size(memory.margin_bytes)} to spare"
    return f"fits     no: {_size(-memory.margin_bytes)} too little{_instead(memory)}"


def _instead(memory: MemoryPlan) -> str:
    return "; instead:" if memory.advice else ""


def _speed(forecast: Forecast) -> Iterator[str]:
    speed = forecast.speed
    if speed is not None:
        decode = f"{speed.decode_tokens_per_s:,.1f} tokens/s ± {speed.decode_relative_error:.0%}"
        prompt = f"{speed.prompt_tokens_per_s:,.0f} tokens/s ± {speed.prompt_relative_error:.0%}"
        yield f"speed    {decode} behind {forecast.speed_context:,} tokens, one stream; prompts {prompt}"


def _size(n_bytes: int) -> str:
    if n_bytes == 0:
        return "-"
    return f"{n_bytes / _GIB:.2f} GiB" if n_bytes >= _GIB else f"{n_bytes / _MIB:.1f} MiB"


def _printable(text: str) -> str:
    """A name from a file, which could hold anything."""
    return "".join(character if character.isprintable() else "?" for character in text)[:200]
