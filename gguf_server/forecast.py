"""One engine's plan, made anew for each load, and what came of it. The chain's owner changes it; everybody may read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal, Protocol, TypeVar

import structlog

from backends.base import EngineFailure
from gguf_server.planning import EnginePlan, Held, Room, is_off_the_card, is_slow, may_try, shortage
from gguf_server.stream_speed import Sample, SpeedRecord

Policy = Literal["enforce", "warn", "off"]
MakePlan = Callable[[Room], EnginePlan]
"""What a load into that room is expected to come to. May block for the reading of a file's header."""

Given = TypeVar("Given", Room, EnginePlan)

_NO_PLAN: Final = EnginePlan(gaps=("nothing is known of this engine beforehand",))
_OFF: Final = EnginePlan(gaps=('plan = "off"',))
_OVERRULE: Final = 'plan = "warn" in the service\'s settings tries it all the same'
_NOTHING: Final = Held()
_ON_THE_PROCESSOR: Final = "next to nothing of it is on the card: it computes on the processor"
_CARD_QUESTION: Final = "does it compute on the processor, or does something else use the card?"
_PROCESSOR_QUESTION: Final = "is the machine busy with something else, or short of memory?"

log = structlog.get_logger("plan")


class Memory(Protocol):
    """As `gguf_server.engine_memory.EngineMemory`. May block."""

    def room(self) -> Room: ...

    def held(self, pid: int) -> Held: ...


class Forecast:
    """`objection`: why the plan is against the last load, which was tried all the same; `held` and `speed` are what
    that load came to.
    """

    def __init__(self, make: MakePlan | None = None, memory: Memory | None = None, policy: Policy = "enforce") -> None:
        self.policy = policy
        self.plan = _OFF if policy == "off" else _NO_PLAN
        self.room = Room()
        self.objection: str | None = None
        self.held = _NOTHING
        self.speed = SpeedRecord()
        self._make = make
        self._memory = memory
        self._was_slow = False

    async def refuses(self, coming_back: Held = _NOTHING) -> EngineFailure | None:
        """Plan a load. Why it is not to be tried, where the plan has that say; others give `coming_back` back first."""
        self.held, self.speed, self._was_slow = _NOTHING, SpeedRecord(), False
        await asyncio.to_thread(self._plan, coming_back)
        self.objection = None
        if self._make is None or self.policy == "off":
            return None
        failure = may_try(self.plan, self.room)
        if failure is not None and self.policy == "enforce" and self.plan.is_binding:
            return EngineFailure(failure.reason, f"it was not tried: {failure.detail}; {_OVERRULE}")
        if doubt := shortage(self.plan, self.room):
            self.objection = f"by its plan {doubt}"
        return None

    async def measure(self, pid: int | None) -> None:
        """Once it is loaded."""
        if self._memory is not None and pid is not None:
            self.held = await asyncio.to_thread(self._memory.held, pid)

    async def complete(self) -> None:
        """Once it is loaded and answers: add what its plan left for later."""
        if self.plan.later is not None:
            self.plan = await asyncio.to_thread(self._made, self.plan.later, self.plan, self.plan)

    def note(self, sample: Sample) -> bool:
        """A stream that the engine had for itself. Whether by this one it has come to be called slow."""
        self.speed.note(sample)
        was_slow, self._was_slow = self._was_slow, self.is_slow
        return self._was_slow and not was_slow

    @property
    def expected_tokens_per_s(self) -> float | None:
        """At the contexts that were measured, at the beginning of one before."""
        typical = self.speed.typical()
        speed = self.plan.speed
        return None if speed is None else speed.decode_tokens_per_s(typical.n_context if typical else 0.0)

    @property
    def is_slow(self) -> bool:
        expected, typical = self.expected_tokens_per_s, self.speed.typical()
        if self.plan.speed is None or expected is None or typical is None or not self.speed.can_judge:
            return False
        return is_slow(typical.tokens_per_s, expected, self.plan.speed.error)

    @property
    def is_on_card(self) -> bool:
        """Whether it is to compute on one, or was found there."""
        need = self.plan.memory
        return need.gpu_bytes > 0 if need is not None else self.held.gpu_bytes is not None

    @property
    def is_off_the_card(self) -> bool:
        need = self.plan.memory
        return need is not None and self.is_on_card and is_off_the_card(need, self.held)

    @property
    def doubts(self) -> tuple[str, ...]:
        """What speaks against a load that is made all the same, in sentences."""
        return self.plan.concerns if self.objection is None else (*self.plan.concerns, self.objection)

    @property
    def shortcomings(self) -> tuple[str, ...]:
        """What the load did not come to, in sentences."""
        told = [_ON_THE_PROCESSOR] if self.is_off_the_card else []
        expected, typical = self.expected_tokens_per_s, self.speed.typical()
        if self.is_slow and typical is not None and expected is not None:
            question = _CARD_QUESTION if self.is_on_card else _PROCESSOR_QUESTION
            speeds = f"{typical.tokens_per_s:.1f} tokens/s to one client alone, where {expected:.1f} were expected"
            told.append(f"it writes {speeds}: {question}")
        return tuple(told)

    def _plan(self, coming_back: Held) -> None:
        if self._memory is not None:
            self.room = self._memory.room().plus(coming_back.gpu_bytes or 0, coming_back.host_bytes or 0)
        if self.policy == "off":
            self.plan = _OFF
        elif self._make is not None:
            self.plan = self._made(self._make, self.room, EnginePlan())

    @staticmethod
    def _made(make: Callable[[Given], EnginePlan], given: Given, otherwise: EnginePlan) -> EnginePlan:
        try:
            return make(given)
        except Exception as error:  # noqa: BLE001 - a plan is advice: no fault in making one stops an engine
            log.warning("no plan could be made", why=type(error).__name__)
            return replace(
                otherwise, later=None, gaps=(*otherwise.gaps, f"no plan could be made: {type(error).__name__}")
            )
