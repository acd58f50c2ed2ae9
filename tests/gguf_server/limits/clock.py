"""A clock that stands still until it is told to go on."""

from __future__ import annotations

from dataclasses import dataclass

NOON = 20_000 * 86_400 + 43_200.0


@dataclass(slots=True)
class Clock:
    now_s: float = NOON

    def __call__(self) -> float:
        return self.now_s
