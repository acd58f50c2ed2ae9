"""In which order a chain's engines are wanted: as they are configured, unless an operator put one before the others.

Decisions are made about engines in that order, and told by their numbers in the chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gguf_server.failover import Decision, Rules, decide
from gguf_server.link import Link
from gguf_server.settings import FailoverSettings


def rules_of(settings: FailoverSettings, *, warm_standby: bool) -> Rules:
    return Rules(
        warm_standby=warm_standby,
        failback=settings.failback,
        failback_after_s=settings.failback_after_s,
        failback_longest_s=settings.failback_longest_s,
        stable_after_s=settings.stable_after_s,
    )


class Preference:
    """For the chain's owner. `links` are those of the chain; `pinned` is the number of the operator's choice."""

    def __init__(self, links: Sequence[Link]) -> None:
        self._links = links
        self._order = list(range(len(links)))
        self._first = 0
        self.pinned: int | None = None

    def __iter__(self) -> Iterator[Link]:
        """Most wanted first."""
        return (self._links[number] for number in self._order)

    def pin(self, number: int | None) -> None:
        self.pinned = number
        numbers = range(len(self._links))
        self._order = sorted(numbers, key=lambda other: other != number)
        self._first = 0

    def begin_with(self, number: int) -> None:
        """With nothing up, this engine is wanted most."""
        self._first = self._order.index(number)

    def begin_after(self, number: int) -> None:
        """With nothing up, those behind this one are wanted most: it has just failed, or would be gone."""
        self._first = (self._order.index(number) + 1) % len(self._order)

    def decide(self, rules: Rules, *, now: float) -> Decision:
        decision = decide([link.view() for link in self], rules, now=now, first=self._first)
        return replace(
            decision,
            serve=None if decision.serve is None else self._order[decision.serve],
            swap_to=None if decision.swap_to is None else self._order[decision.swap_to],
            start=self._numbers(decision.start),
            end=self._numbers(decision.end),
            hold=self._numbers(decision.hold),
        )

    def _numbers(self, places: Sequence[int]) -> tuple[int, ...]:
        return tuple(self._order[place] for place in places)
