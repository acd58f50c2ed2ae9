"""One engine of a chain with its history. The chain's owner alone changes it; everybody may read."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from backends.base import Engine, EngineFailure, EngineState, FailureReason
from gguf_server.card_memory import CardMemory, Read
from gguf_server.failover import ANY_CARD, LinkView, Phase
from gguf_server.forecast import Forecast
from gguf_server.serving import Serving

_HOPELESS: Final = frozenset(
    {
        FailureReason.NOT_INSTALLED,
        FailureReason.NO_GPU,
        FailureReason.WEIGHTS_MISSING,
        FailureReason.WEIGHTS_DAMAGED,
        FailureReason.UNSUPPORTED_MODEL,
        FailureReason.INVALID_SETTINGS,
    }
)


@dataclass(slots=True, eq=False)
class Link:
    """`n_failures` counts those in a row, `failures` all of them by reason.

    `memory` is that of the card it computes on; None where it uses none. `refusal`: why its plan was against the last
    try, which was not made. `is_wanted` and `is_held` are an operator's doing, as `gguf_server.failover` takes them.
    """

    engine: Engine
    memory: CardMemory | None = None
    forecast: Forecast = field(default_factory=Forecast)
    refusal: EngineFailure | None = None
    phase: Phase = Phase.DOWN
    serving: Serving | None = None
    n_starts: int = 0
    n_failures: int = 0
    failures: dict[FailureReason, int] = field(default_factory=dict)
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    failed_at: datetime | None = None
    load_s: float | None = None
    life: asyncio.Task[None] | None = None
    is_wanted: bool = False
    is_held: bool = False
    _failed_at_s: float = 0.0
    _is_hopeless: bool = False

    @property
    def failure(self) -> EngineFailure | None:
        """The last one, the plan's among them, kept until the next successful start."""
        return self.refusal or self.engine.failure

    @property
    def state(self) -> EngineState:
        """The engine's own; one that was given up and whose process does not know it yet is no longer ready."""
        if self.refusal is not None:
            return EngineState.FAILED
        is_given_up = self.phase is Phase.ENDING and self.engine.state is EngineState.READY
        return EngineState.DRAINING if is_given_up else self.engine.state

    @property
    def offered(self) -> Serving | None:
        """What new requests may have of it."""
        return None if self.is_held else self.serving

    def become(self, phase: Phase) -> None:
        self.phase = phase
        self.since = datetime.now(UTC)
        if phase is Phase.UP:
            self.is_wanted = False
        elif phase is Phase.DOWN:
            self.is_held = False

    def want(self) -> None:
        """Start it as soon as may be, whatever was the matter with it before."""
        self.is_wanted = True
        self.n_failures = 0
        self._is_hopeless = False

    def note(self, failure: EngineFailure, now: float, *, was_stable: bool) -> None:
        self.is_wanted = False
        self.n_failures = 1 if was_stable else self.n_failures + 1
        self.failures[failure.reason] = self.failures.get(failure.reason, 0) + 1
        self._is_hopeless = failure.reason in _HOPELESS
        self._failed_at_s = now
        self.failed_at = datetime.now(UTC)

    def may_yet_start(self, since: float) -> bool:
        """Whether it has not failed since then, nor before for good."""
        return not self._is_hopeless and (self.n_failures == 0 or self._failed_at_s < since)

    def view(self) -> LinkView:
        card = ANY_CARD if self.engine.cuda_device is None else self.engine.cuda_device
        return LinkView(
            phase=self.phase,
            n_failures=self.n_failures,
            failed_at=self._failed_at_s,
            is_hopeless=self._is_hopeless,
            card=card if self.memory is not None else None,
            up_since=self.serving.up_since if self.serving else 0.0,
            idle_since=self.serving.idle_since if self.serving else None,
            is_wanted=self.is_wanted,
            is_held=self.is_held,
        )


def memory_of(engine: Engine, read_cards: Read | None) -> CardMemory | None:
    """Of the card that an engine may compute on; None on a machine without, and for one that uses none."""
    if read_cards is None or engine.device not in ("cuda", "auto"):
        return None
    return CardMemory(read_cards, engine.cuda_device)
