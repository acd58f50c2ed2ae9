"""What a service did within the last minute, as its dashboard shows it. No clock here: every call says what time it is.

An answer's tokens are spread evenly over the time in which it was written, so that a long one does not show as nothing
for minutes and then as all of it at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gguf_server.outcomes import Outcome, is_asking, outcome_of
from gguf_server.request_record import RequestRecord

WINDOW_S: Final = 60.0
_MOST_KEPT: Final = 20_000


@dataclass(frozen=True, slots=True)
class Writing:
    """Tokens written from `began` to `ended`, seconds of the caller's clock."""

    began: float
    ended: float
    n_tokens: int

    def n_since(self, since: float) -> float:
        """How many of them came after `since`."""
        if self.ended <= since:
            return 0.0
        spent = self.ended - self.began
        return self.n_tokens * min(1.0, (self.ended - since) / spent) if spent > 0 else float(self.n_tokens)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one window. `ttft_s`: median and 95th percentile of the streams that ended within it; None without any."""

    window_s: float
    tokens_per_s: float
    requests_per_min: float
    ttft_s: tuple[float, float] | None
    n_errors: int


@dataclass(frozen=True, slots=True)
class _Ended:
    at: float
    writing: Writing | None
    ttft_s: float | None
    is_error: bool


class LiveFigures:
    """`observe` is told of every request at its end, `read` asks what came of those within the window."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self.window_s = window_s
        self._ended: deque[_Ended] = deque(maxlen=_MOST_KEPT)

    def observe(self, record: RequestRecord, now: float) -> None:
        if not is_asking(record):
            return
        self._forget(now)
        is_error = outcome_of(record) is Outcome.FAILED
        self._ended.append(_Ended(now, _writing(record, now), record.ttft_s, is_error))

    def read(self, now: float, running: Iterable[Writing] = ()) -> Figures:
        """`running`: what answers that have not ended yet have come to."""
        self._forget(now)
        since = now - self.window_s
        written = [ended.writing for ended in self._ended if ended.writing is not None]
        n_tokens = sum(writing.n_since(since) for writing in (*written, *running))
        waits = sorted(ended.ttft_s for ended in self._ended if ended.ttft_s is not None)
        return Figures(
            self.window_s,
            tokens_per_s=n_tokens / self.window_s,
            requests_per_min=len(self._ended) * 60 / self.window_s,
            ttft_s=(_percentile(waits, 0.50), _percentile(waits, 0.95)) if waits else None,
            n_errors=sum(ended.is_error for ended in self._ended),
        )

    def _forget(self, now: float) -> None:
        while self._ended and self._ended[0].at <= now - self.window_s:
            self._ended.popleft()


def _writing(record: RequestRecord, now: float) -> Writing | None:
    if not record.n_completion_tokens:
        return None
    before_s = record.ttft_s if record.ttft_s is not None else record.queued_s or 0.0
    return Writing(now - max(0.0, record.elapsed_s - before_s), now, record.n_completion_tokens)


def _percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that this share of them does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
