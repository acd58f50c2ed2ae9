"""Counting what was used in a window of time. Pure: whoever asks brings the clock.

Time is cut into slots. What is counted at a moment counts until `width_s` after the end of its slot, so that

- with slots of a second and a width of 60, whatever 60 seconds one looks at, no more than the limit was let in there
  (an amount weighs for 60 to 61 seconds);
- with slots of a day and a width of 0, no more than the limit is let in from midnight to midnight, UTC.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Window:
    """`slot_s` divides a day of 86,400 seconds, so that days begin with a slot."""

    name: str
    slot_s: int
    width_s: int

    def slot_at(self, now_s: float) -> int:
        return int(now_s // self.slot_s)

    def end_of(self, slot: int) -> int:
        """When what was counted in a slot stops to count; seconds since the epoch."""
        return (slot + 1) * self.slot_s + self.width_s


MINUTE: Final = Window("minute", slot_s=1, width_s=60)
DAY: Final = Window("day", slot_s=86_400, width_s=0)


@dataclass(slots=True)
class Slot:
    number: int
    n: int


class WindowCount:
    """What was used, as far as it still counts. O(1) amortized; `wait_s` looks at up to a window's slots.

    Times are seconds since the epoch. A clock that was set back by more than a slot makes it forget: else what lies in
    the future would count for as long as the clock was wrong.
    """

    def __init__(self, window: Window) -> None:
        self._window = window
        self._slots: deque[Slot] = deque()
        self._n = 0

    def used(self, now_s: float) -> int:
        self._forget(now_s)
        return self._n

    def wait_s(self, now_s: float, n: int, limit: int) -> float:
        """Seconds until `n` more are within the limit, if nothing else is counted before; 0 for now.

        What is more than the limit itself is let in when nothing else counts.
        """
        excess = self.used(now_s) + min(n, limit) - limit
        for slot in self._slots:
            if excess <= 0:
                break
            excess -= slot.n
            if excess <= 0:
                return self._window.end_of(slot.number) - now_s
        return 0.0

    def reset_s(self, now_s: float) -> float:
        """Seconds until nothing counts any more."""
        self._forget(now_s)
        return next((self._window.end_of(slot.number) - now_s for slot in reversed(self._slots) if slot.n), 0.0)

    def add(self, now_s: float, n: int) -> int:
        """Count `n`; returns the slot that it is in."""
        self._forget(now_s)
        number = self._window.slot_at(now_s)
        if not self._slots or self._slots[-1].number < number:
            self._slots.append(Slot(number, 0))
        newest = self._slots[-1]
        newest.n += n
        self._n += n
        return newest.number

    def take_back(self, now_s: float, number: int, n: int) -> None:
        """Count `n` less of a slot, where it still counts."""
        self._forget(now_s)
        for slot in reversed(self._slots):
            if slot.number == number:
                n = min(n, slot.n)
                slot.n -= n
                self._n -= n
                break

    def _forget(self, now_s: float) -> None:
        slots = self._slots
        while slots and self._window.end_of(slots[0].number) <= now_s:
            self._n -= slots.popleft().n
        if slots and slots[-1].number > self._window.slot_at(now_s) + 1:
            slots.clear()
            self._n = 0
