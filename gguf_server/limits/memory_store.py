"""Counts in this process: what there is by default, and what is left where a shared store cannot be reached."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from gguf_server.limits.meters import Ask, Change, Kind, Meter, Reading, Taken
from gguf_server.limits.windows import Window, WindowCount

_Name = tuple[str, Kind, str]


class MemoryStore:
    """Nothing here waits, so that every method is atomic on the event loop. Keeps at most four counts for each key."""

    def __init__(self, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s
        self._counts: dict[_Name, WindowCount] = {}

    @property
    def is_reachable(self) -> bool:
        return True

    async def take(self, key_id: str, asks: Sequence[Ask]) -> Taken:
        now_s = self._now_s()
        waits = tuple(self._count(key_id, ask.meter).wait_s(now_s, ask.n_held, ask.meter.limit) for ask in asks)
        slots: tuple[int, ...] = ()
        if not any(waits):
            slots = tuple(self._count(key_id, ask.meter).add(now_s, ask.n_held) for ask in asks)
        return Taken(slots, waits, self._read(key_id, [ask.meter for ask in asks]), self)

    async def settle(self, key_id: str, changes: Sequence[Change]) -> tuple[Reading, ...]:
        now_s = self._now_s()
        for change in changes:
            count = self._count(key_id, change.meter)
            if change.n > 0:
                count.add(now_s, change.n)
            else:
                count.take_back(now_s, change.slot, -change.n)
        return self._read(key_id, [change.meter for change in changes])

    async def read(self, key_id: str, meters: Sequence[Meter]) -> tuple[Reading, ...]:
        return self._read(key_id, meters)

    def count_in(self, key_id: str, asks: Sequence[Ask], slots: Sequence[int]) -> None:
        """Count what was let in elsewhere, in slots by the clock there."""
        for ask, slot in zip(asks, slots, strict=True):
            self._count(key_id, ask.meter).add(slot * ask.meter.window.slot_s, ask.n_held)

    def begin(self, key_id: str, kind: Kind, window: Window, n: int) -> None:
        """Count what was used before this process began."""
        self._named((key_id, kind, window.name), window).add(self._now_s(), n)

    def _read(self, key_id: str, meters: Sequence[Meter]) -> tuple[Reading, ...]:
        now_s = self._now_s()
        counts = [(meter, self._count(key_id, meter)) for meter in meters]
        return tuple(Reading(meter, count.used(now_s), count.reset_s(now_s)) for meter, count in counts)

    def _count(self, key_id: str, meter: Meter) -> WindowCount:
        return self._named((key_id, meter.kind, meter.window.name), meter.window)

    def _named(self, name: _Name, window: Window) -> WindowCount:
        found = self._counts.get(name)
        if found is None:
            found = self._counts[name] = WindowCount(window)
        return found
