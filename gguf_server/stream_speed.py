"""How fast an engine writes to one client alone, from the streams that pass through the gateway.

A prediction is about one stream, so only those count which had the engine to themselves from beginning to end, were
long enough, and were read as fast as they came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

_FEWEST_TOKENS: Final = 32
_MOST_AWAY: Final = 0.1  # of the time, waiting for the client
_N_KEPT: Final = 16
_FEWEST_STREAMS: Final = 3  # to judge by: one alone may have met a busy moment of the machine


@dataclass(frozen=True, slots=True)
class Sample:
    """One stream. `n_context`: tokens before the middle of its answer."""

    tokens_per_s: float
    n_context: float


class StreamTimer:
    """When the pieces of one stream came. Told of every one of them, so it does next to nothing.

    `was_alone`: no other request was with the engine meanwhile.
    """

    __slots__ = ("_away_s", "_last_at", "_n_pieces", "_second_at", "was_alone")

    def __init__(self) -> None:
        self.was_alone = True
        self._n_pieces = 0
        self._second_at = self._last_at = self._away_s = 0.0

    def heard(self, now: float) -> None:
        self._n_pieces += 1
        if self._n_pieces == 2:
            self._second_at, self._away_s = now, 0.0
        self._last_at = now

    def waits(self, now: float) -> None:
        """The last piece was passed on."""
        self._away_s += now - self._last_at

    def so_far(self) -> tuple[float, float, int]:
        """When its second piece and its last one came, and how many came after the first."""
        return self._second_at, self._last_at, max(0, self._n_pieces - 1)

    def mean_gap_s(self, usage: Mapping[str, Any]) -> float | None:
        """Seconds from one token to the next, of a finished stream; None where it had too few to tell."""
        n_tokens, spent_s = _count(usage, "completion_tokens"), self._last_at - self._second_at
        return spent_s / (n_tokens - 1) if n_tokens > 1 and self._n_pieces > 2 else None

    def sample(self, body: Mapping[str, Any], usage: Mapping[str, Any]) -> Sample | None:
        """What a finished stream tells; None where it tells nothing.

        The clock starts at the second piece: the first may be the assistant's role alone, sent before any token.
        """
        n_tokens, n_prompt = _count(usage, "completion_tokens"), _count(usage, "prompt_tokens")
        spent_s = self._last_at - self._second_at
        if not self.was_alone or n_tokens < _FEWEST_TOKENS or self._n_pieces < 3 or spent_s <= 0:
            return None
        if self._away_s > _MOST_AWAY * spent_s or _hides_tokens(body):
            return None
        return Sample((n_tokens - 1) / spent_s, n_prompt + n_tokens / 2)


class SpeedRecord:
    """The last samples of one engine's life."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=_N_KEPT)
        self.n_streams = 0

    def note(self, sample: Sample) -> None:
        self._samples.append(sample)
        self.n_streams += 1

    @property
    def can_judge(self) -> bool:
        return self.n_streams >= _FEWEST_STREAMS

    def typical(self) -> Sample | None:
        """The medians."""
        if not self._samples:
            return None
        return Sample(
            median(sample.tokens_per_s for sample in self._samples),
            median(sample.n_context for sample in self._samples),
        )


def _hides_tokens(body: Mapping[str, Any]) -> bool:
    """Whether more was computed than one sequence that the client could watch."""
    several = any((body.get(key) or 1) > 1 for key in ("n", "best_of"))
    return several or body.get("include_reasoning") is False


def _count(usage: Mapping[str, Any], key: str) -> int:
    value = usage.get(key)
    return value if isinstance(value, int) else 0
