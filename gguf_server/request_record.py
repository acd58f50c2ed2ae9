"""What is known of one request when it is over: who asked, who answered, how much and how long; nothing of its content.

Filled in on the way by those who know; the outermost middleware closes it, logs it, and shows it to every observer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

CLIENT_LEFT_STATUS: Final = 499
"""In records only: the client went away before the answer was whole."""


@dataclass(slots=True)
class RequestRecord:
    """`path` is that of the route, or "other" where there is none; so is a `method` that nobody knows.

    `service` and `engine` are names; `error` is the code of the error that the client was told.

    Times are seconds: `started_at` since the epoch, `queued_s` until a place was free, `ttft_s` from the beginning to
    the first piece of a stream, `gap_s` from one token of it to the next. None is what never came to be known.
    `n_dropped` counts the messages that were left out to make the rest fit. `is_estimated`: the tokens are not the
    engine's count, as the answer never came to its end. `prompt_hash` is keyed, and there only if the audit asks for
    it. `is_page_part`: one of the many files that make up a page, which the log leaves out unless it tells all.
    """

    request_id: str
    method: str
    path: str
    started_at: float
    client: str | None = None
    key_id: str | None = None
    service: str | None = None
    model: str | None = None
    engine: str | None = None
    status: int = CLIENT_LEFT_STATUS
    error: str | None = None
    is_stream: bool = False
    is_page_part: bool = False
    n_prompt_tokens: int | None = None
    n_completion_tokens: int | None = None
    n_cached_tokens: int | None = None
    is_estimated: bool = False
    n_dropped: int = 0
    n_failovers: int = 0
    queued_s: float | None = None
    ttft_s: float | None = None
    gap_s: float | None = None
    elapsed_s: float = 0.0
    prompt_hash: str | None = None

    @property
    def was_let_in(self) -> bool:
        """Whether it came to be computed."""
        return self.queued_s is not None

    @property
    def ended_at(self) -> float:
        """Seconds since the epoch."""
        return self.started_at + self.elapsed_s

    def log_fields(self) -> dict[str, Any]:
        """What the log's line says; what is not known is left out."""
        said = {
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "elapsed_ms": round(1000 * self.elapsed_s, 1),
            "request_id": self.request_id,
            "key_id": self.key_id,
            "service": self.service,
            "engine": self.engine,
            "model": self.model,
            "prompt_tokens": self.n_prompt_tokens,
            "completion_tokens": self.n_completion_tokens,
            "truncated": self.n_dropped or None,
            "failovers": self.n_failovers or None,
            "error": self.error,
        }
        return {name: value for name, value in said.items() if value is not None}


RECORD: Final = web.RequestKey("record", RequestRecord)

Observe = Callable[[RequestRecord], None]
"""Told of every request once, at its end, on the event loop: it must be quick, and must not raise."""

OBSERVERS: Final = web.AppKey("observers", list[Observe])
