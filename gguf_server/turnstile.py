"""The rule by which requests are let in, synchronous and without a clock: whose turn it is, who waits, who is refused.

Each key has a line of its own, first come first served. Between lines of one class it is the turn of the one that has
used least, in tokens: the virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI
2024). A request is charged with an estimate when it enters, which is put right when it leaves; a line that comes back
from idleness starts level with the one served last, so that nobody saves up turns.

Between classes the higher one goes first, but one that was passed over `PATIENCE` times while it waited goes next.

The queue is shared: when it is full, a newcomer takes the place of the last one of the longest line, where that line is
longer than its own would become (or as long, and of a lower class). So k lines keep a k-th of the queue each, and none
can fill it against the others.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

Ticket = TypeVar("Ticket")

PATIENCE: Final = 8


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who wants to come in. `rank`: of its class, 0 first. `max_running`: of its key inside at once. `cost`: tokens."""

    key: str = ""
    rank: int = 1
    max_running: int | None = None
    cost: int = 1


ANYBODY: Final = Visitor()


@dataclass(slots=True)
class Line(Generic[Ticket]):
    """One key's requests. `used`: tokens, as far as turns depend on it."""

    waiting: OrderedDict[Ticket, Visitor] = field(default_factory=OrderedDict)
    n_running: int = 0
    used: int = 0

    @property
    def is_idle(self) -> bool:
        return not self.waiting and not self.n_running

    @property
    def head(self) -> Visitor:
        return next(iter(self.waiting.values()))

    @property
    def tail(self) -> Visitor:
        return next(reversed(self.waiting.values()))

    def has_room_for(self, visitor: Visitor) -> bool:
        return not visitor.max_running or self.n_running < visitor.max_running


class Turnstile(Generic[Ticket]):
    """At most `max_running` inside, at most `max_queued` waiting. O(keys that are here) for each step."""

    def __init__(self, max_running: int, max_queued: int) -> None:
        self.max_running = max_running
        self.max_queued = max_queued
        self.n_running = 0
        self.n_queued = 0
        self._lines: dict[str, Line[Ticket]] = {}
        self._keys: dict[Ticket, str] = {}
        self._floors: dict[int, int] = {}  # by rank: what the line that was served last had used before
        self._n_passed: dict[int, int] = {}  # by rank: turns in a row that others had while it waited

    def can_enter(self, visitor: Visitor = ANYBODY) -> bool:
        if self.n_running >= self.max_running:
            return False
        line = self._lines.get(visitor.key)
        if line is not None and (line.waiting or not line.has_room_for(visitor)):
            return False
        return not self.n_queued or self._next() is None

    def enter(self, visitor: Visitor = ANYBODY) -> None:
        self._let_in(self._arrive(visitor), visitor)

    def can_queue(self, visitor: Visitor = ANYBODY) -> bool:
        return self.n_queued < self.max_queued or self._whose_place(visitor) is not None

    def queue(self, ticket: Ticket, visitor: Visitor = ANYBODY) -> Ticket | None:
        """Wait; returns whose place was taken for it."""
        displaced = None
        if self.n_queued >= self.max_queued and (longest := self._whose_place(visitor)) is not None:
            displaced = next(reversed(longest.waiting))
            self.give_up(displaced)
        self._arrive(visitor).waiting[ticket] = visitor
        self._keys[ticket] = visitor.key
        self.n_queued += 1
        return displaced

    def give_up(self, ticket: Ticket) -> bool:
        """Leave the queue. False when it is not there any more."""
        key = self._keys.pop(ticket, None)
        if key is None:
            return False
        line = self._lines[key]
        visitor = line.waiting.pop(ticket)
        self.n_queued -= 1
        self._tidy(visitor, line)
        return True

    def leave(self, visitor: Visitor = ANYBODY, n_used: int | None = None) -> Ticket | None:
        """Go out, having used `n_used` tokens where that is known; returns whose turn it is now, as `call` does."""
        line = self._lines[visitor.key]
        line.n_running -= 1
        self.n_running -= 1
        if n_used is not None:
            line.used += n_used - visitor.cost
        self._tidy(visitor, line)
        return self.call()

    def call(self) -> Ticket | None:
        """Whose turn it is now. Their place inside is taken for them."""
        if not self.n_queued or self.n_running >= self.max_running:
            return None
        line = self._next()
        if line is None:
            return None
        ticket, visitor = line.waiting.popitem(last=False)
        del self._keys[ticket]
        self.n_queued -= 1
        self._note_turn(visitor.rank)
        self._let_in(line, visitor)
        return ticket

    def _arrive(self, visitor: Visitor) -> Line[Ticket]:
        line = self._lines.get(visitor.key)
        if line is None:
            line = self._lines[visitor.key] = Line()
        if line.is_idle:
            line.used = max(line.used, self._floors.get(visitor.rank, 0))
        return line

    def _let_in(self, line: Line[Ticket], visitor: Visitor) -> None:
        self._floors[visitor.rank] = max(self._floors.get(visitor.rank, 0), line.used)
        line.used += visitor.cost
        line.n_running += 1
        self.n_running += 1

    def _next(self) -> Line[Ticket] | None:
        """Of those who wait and may run, the class whose turn it is, and in it the line that has used least."""
        ready = [line for line in self._lines.values() if line.waiting and line.has_room_for(line.head)]
        if not ready:
            return None
        ranks = {line.head.rank for line in ready}
        overdue = [rank for rank in ranks if self._n_passed.get(rank, 0) >= PATIENCE]
        rank = max(overdue, key=lambda rank: (self._n_passed[rank], -rank)) if overdue else min(ranks)
        return min((line for line in ready if line.head.rank == rank), key=lambda line: line.used)

    def _note_turn(self, rank: int) -> None:
        """Classes whose line could have come in as well were passed over. Called before the place is taken."""
        self._n_passed[rank] = 0
        passed = {line.head.rank for line in self._lines.values() if line.waiting and line.has_room_for(line.head)}
        for other in passed - {rank}:
            self._n_passed[other] = self._n_passed.get(other, 0) + 1

    def _whose_place(self, visitor: Visitor) -> Line[Ticket] | None:
        """The line that has to give a place to this newcomer."""
        lines = [line for line in self._lines.values() if line.waiting]
        if not lines:
            return None
        own = self._lines.get(visitor.key)
        n_own = len(own.waiting) if own is not None else 0
        longest = max(lines, key=lambda line: (len(line.waiting), line.tail.rank))
        is_longer = (len(longest.waiting), longest.tail.rank) > (n_own + 1, visitor.rank)
        return longest if longest is not own and is_longer else None

    def _tidy(self, visitor: Visitor, line: Line[Ticket]) -> None:
        """Forget what makes no difference any more."""
        if not self.n_running and not self.n_queued:
            self._lines.clear()
            self._floors.clear()
            self._n_passed.clear()
        elif line.is_idle and line.used <= self._floors.get(visitor.rank, 0):
            del self._lines[visitor.key]
