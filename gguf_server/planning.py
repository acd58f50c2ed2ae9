"""What a load is expected to take and to give, and what follows from that: functions of plain data.

Who makes such a plan is `gguf_server.engine_plans`; who asks for it, and holds it against what came of it, is
`gguf_server.forecast`. What is not known is None, and stops nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from backends.base import EngineFailure, FailureReason

GIB: Final = 1 << 30
_HALF: Final = 0.5


@dataclass(frozen=True, slots=True)
class Part:
    """Of the memory: weights, KV cache, compute buffers, …."""

    name: str
    gpu_bytes: int
    host_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """The least an engine works with. `error` is the plan's own, relative.

    `gpu_share_bytes`: what its settings let it take of the card, all of which it then takes (vLLM); None: what it
    needs. `advice`: what a person may change where that is too much.
    """

    gpu_bytes: int
    host_bytes: int
    parts: tuple[Part, ...] = ()
    gpu_share_bytes: int | None = None
    error: float
    advice: tuple[str, ...] = ()

    @property
    def gpu_taken_bytes(self) -> int:
        """What the card is expected to hold of it."""
        return self.gpu_bytes if self.gpu_share_bytes is None else self.gpu_share_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedSpeed:
    """Of one stream alone. A token takes `token_s`, and `context_token_s` more for each token before it."""

    token_s: float
    context_token_s: float
    error: float
    prompt_tokens_per_s: float | None = None

    def decode_tokens_per_s(self, n_context: float) -> float:
        return 1.0 / (self.token_s + self.context_token_s * n_context)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """`gaps` say why there is no `memory` or no `speed`, one sentence each; `concerns`, what is amiss beforehand.

    A plan that is not `is_binding` refuses nothing: settings that it does not read may change all of it. `later` adds
    what takes a measurement that no load should wait for; it blocks.
    """

    memory: MemoryNeed | None = None
    speed: ExpectedSpeed | None = None
    gaps: tuple[str, ...] = ()
    concerns: tuple[str, ...] = ()
    is_binding: bool = True
    later: Callable[[EnginePlan], EnginePlan] | None = None


@dataclass(frozen=True, slots=True)
class CardSeen:
    """As NVML names it."""

    name: str
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that is free now: of the card (or cards) an engine computes on, and of the machine. None: not known."""

    gpu_free_bytes: int | None = None
    host_free_bytes: int | None = None
    cards: tuple[CardSeen, ...] = ()

    def plus(self, gpu_bytes: int, host_bytes: int) -> Room:
        """Once others have given these back."""
        return replace(
            self,
            gpu_free_bytes=None if self.gpu_free_bytes is None else self.gpu_free_bytes + gpu_bytes,
            host_free_bytes=None if self.host_free_bytes is None else self.host_free_bytes + host_bytes,
        )


@dataclass(frozen=True, slots=True)
class Held:
    """What an engine was found to hold. None: nobody could tell."""

    gpu_bytes: int | None = None
    host_bytes: int | None = None


def may_try(plan: EnginePlan, room: Room) -> EngineFailure | None:
    """Why an engine need not be tried: it would not fit even if the plan were wrong by all it may be."""
    detail = shortage(plan, room, error=plan.memory.error if plan.memory else 0.0)
    return None if detail is None else EngineFailure(FailureReason.OUT_OF_MEMORY, detail)


def shortage(plan: EnginePlan, room: Room, *, error: float = 0.0) -> str | None:
    """What there is too little of by the plan, and what to change; `error`: the part of the need to be left out."""
    need = plan.memory
    if need is None:
        return None
    limits = (
        (need.gpu_bytes, need.gpu_share_bytes, "of the card are what its settings let it have"),
        (need.gpu_bytes, room.gpu_free_bytes, "of the card are free"),
        (need.host_bytes, room.host_free_bytes, "of this machine's memory are free"),
    )
    for n_bytes, limit, what in limits:
        if limit is not None and n_bytes * (1.0 - error) > limit:
            return "; ".join((f"it needs about {_gib(n_bytes)} GiB, and {_gib(limit)} GiB {what}", *need.advice))
    return None


def is_slow(measured: float, expected: float, error: float) -> bool:
    """Under half of what was expected, and under what the plan's error explains."""
    return measured < expected * min(_HALF, 1.0 - error)


def is_off_the_card(need: MemoryNeed, held: Held) -> bool:
    """Whether an engine that was to compute on the card holds next to nothing of it."""
    return held.gpu_bytes is not None and held.gpu_bytes < need.gpu_bytes * _HALF


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / GIB:.1f}"
