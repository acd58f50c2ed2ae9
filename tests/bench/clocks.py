"""Time for tests: it passes when they say so."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass
class SetClock:
    """Goes on only by what is slept, and by `oversleeps_s` more each time."""

    now_s: float = 100.0
    oversleeps_s: float = 0.0
    slept_s: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        """Whoever is ready goes first, as with a real sleep."""
        self.slept_s.append(delay_s)
        await asyncio.sleep(0)
        self.now_s += delay_s + self.oversleeps_s
