"""Changes of engine, counted and remembered: of the one that serves a chain, and of requests that one of them failed.

Engines are remembered by their numbers in the chain.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

N_KEPT: Final = 20
_SAME_S: Final = 60.0
"""Requests moved alike within this time are one entry: a crash moves everything that ran."""

FAILBACK: Final = "failback"
NOT_NEEDED: Final = "not_needed"
OPERATOR: Final = "operator"


class Scope(StrEnum):
    """SERVICE: where new requests go has changed. REQUEST: one that had begun went on elsewhere, or was lost."""

    SERVICE = "service"
    REQUEST = "request"


@dataclass(frozen=True, slots=True)
class Move:
    """`at`: seconds since the epoch. `target` None: to nobody, so far. `reason`: one of a few words, never a text."""

    scope: Scope
    source: int
    target: int | None
    reason: str
    at: float
    n: int = 1


Kind = tuple[Scope, int, int | None, str]


class Moves:
    """`totals` since start, by scope, source, target and the reason first seen; `recent` the last, oldest first."""

    def __init__(self, engines: Sequence[object], clock: Callable[[], float] = time.time) -> None:
        self._numbers = {id(engine): number for number, engine in enumerate(engines)}
        self._clock = clock
        self.recent: deque[Move] = deque(maxlen=N_KEPT)
        self.totals: Counter[Kind] = Counter()
        self._serving: int | None = None

    def request_moved(self, source: object, target: object | None, reason: str) -> None:
        """An engine failed a request, which went to `target`, or ended with an error."""
        at = self._clock()
        self._count(move := Move(Scope.REQUEST, self._numbers[id(source)], self._number(target), reason, at))
        for number, other in enumerate(self.recent):
            if _kind(other) == _kind(move) and at - other.at <= _SAME_S:
                self.recent[number] = replace(other, n=other.n + 1)
                return
        self.recent.append(move)

    def serving_is(self, engine: object | None, reason: str) -> None:
        """What serves now; `reason` is why it is no longer what it was, where it is not."""
        number = self._number(engine)
        before, self._serving = self._serving, number
        if number == before:
            return
        if before is not None:
            self._count(move := Move(Scope.SERVICE, before, number, reason, self._clock()))
            self.recent.append(move)
            return
        for place, other in reversed(list(enumerate(self.recent))):
            if other.scope is Scope.SERVICE and other.target is None:  # whom the lost one was replaced by
                self.recent[place] = found = replace(other, target=number)
                self._count(found)
                return

    def cause_was(self, engine: object, reason: str) -> None:
        """What an engine that does not serve any more died of, once that is known."""
        source = self._number(engine)
        for place, other in reversed(list(enumerate(self.recent))):
            if other.scope is Scope.SERVICE and other.source == source:
                self.recent[place] = replace(other, reason=reason)
                return

    def _number(self, engine: object | None) -> int | None:
        return None if engine is None else self._numbers[id(engine)]

    def _count(self, move: Move) -> None:
        self.totals[_kind(move)] += 1


def _kind(move: Move) -> Kind:
    return move.scope, move.source, move.target, move.reason


def unambiguous(names: Sequence[str], devices: Sequence[str]) -> tuple[str, ...]:
    """What the engines of a chain are called where several may have one name."""
    return tuple(
        name if names.count(name) == 1 else f"{name} ({device})" for name, device in zip(names, devices, strict=True)
    )
