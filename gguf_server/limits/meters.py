"""Which counts a request is held against, and how a store of counts is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from gguf_server.limits.policy import KeyLimits
from gguf_server.limits.windows import DAY, MINUTE, Window


class Kind(StrEnum):
    """What is counted; also OpenAI's `type` of the error that tells of too much."""

    REQUESTS = "requests"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True)
class Meter:
    """One limit of one key. `limit` is at least 1."""

    kind: Kind
    window: Window
    limit: int

    def __str__(self) -> str:
        return f"{self.kind} per {self.window.name}"


@dataclass(frozen=True, slots=True)
class Ask:
    """`n` more of what a meter counts. No more than the limit is held against it: else it could never be let in."""

    meter: Meter
    n: int

    @property
    def n_held(self) -> int:
        return min(self.n, self.meter.limit)


@dataclass(frozen=True, slots=True)
class Reading:
    """`reset_s`: until nothing counts any more. `used` is over the limit where requests used more than was held."""

    meter: Meter
    used: int
    reset_s: float

    @property
    def n_left(self) -> int:
        return max(0, self.meter.limit - self.used)


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of asking: all that was asked is counted, or nothing.

    `slots`: where it was counted, one for each ask; empty where it was refused. `waits_s`: how long each alone would
    have had to wait; all 0 where it was let in. `by`: who has counted it, and is to be told what it really used.
    """

    slots: tuple[int, ...]
    waits_s: tuple[float, ...]
    readings: tuple[Reading, ...]
    by: Store

    @property
    def is_refused(self) -> bool:
        return any(self.waits_s)


@dataclass(frozen=True, slots=True)
class Change:
    """A count put right: `n` more, now, or less in the slot where it was counted."""

    meter: Meter
    slot: int
    n: int


class Store(Protocol):
    """Counts by key id. Each method is atomic, raises nothing, and is over soon even where it has to ask elsewhere."""

    @property
    def is_reachable(self) -> bool: ...

    async def take(self, key_id: str, asks: Sequence[Ask]) -> Taken: ...

    async def settle(self, key_id: str, changes: Sequence[Change]) -> tuple[Reading, ...]:
        """What all meters of `changes` say afterwards."""
        ...

    async def read(self, key_id: str, meters: Sequence[Meter]) -> tuple[Reading, ...]: ...


def meters_of(limits: KeyLimits) -> tuple[Meter, ...]:
    """Those with a limit, the shorter window first."""
    wanted = (
        (Kind.REQUESTS, MINUTE, limits.requests_per_minute),
        (Kind.TOKENS, MINUTE, limits.tokens_per_minute),
        (Kind.REQUESTS, DAY, limits.requests_per_day),
        (Kind.TOKENS, DAY, limits.tokens_per_day),
    )
    return tuple(Meter(kind, window, limit) for kind, window, limit in wanted if limit)
