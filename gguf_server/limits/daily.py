"""The seam to whoever keeps usage per key and day on disk, so that a day's quota outlives a restart."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import NamedTuple, Protocol


class DayCount(NamedTuple):
    """What a key has used of one day: requests let in, tokens of prompts and answers together."""

    n_requests: int
    n_tokens: int


class DailyUsage(Protocol):
    """Asked once, before the first request, on the event loop: it may block for as long as a small query does."""

    def load(self, day: date) -> Mapping[str, DayCount]:
        """By key id. `day` is one of UTC: it begins and ends at midnight there."""
        ...
