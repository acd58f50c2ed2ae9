"""What is counted of requests, and under which name."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from datetime import UTC, date, datetime
from typing import Final, NamedTuple

from gguf_server.request_record import RequestRecord

_DAY_S: Final = 86_400
_ADMIN: Final = "/admin/"


class Account(NamedTuple):
    """Whose use of what. `day` counts from 1970-01-01, UTC; "" is a model or engine that a request never came to."""

    day: int
    key_id: str
    service: str
    model: str
    engine: str


@dataclass(slots=True)
class Counts:
    """`n_refused`: never let in. `n_errors`: let in, and answered by an error, be it at the end of a stream."""

    n_requests: int = 0
    n_errors: int = 0
    n_refused: int = 0
    n_prompt_tokens: int = 0
    n_completion_tokens: int = 0
    n_cached_tokens: int = 0
    elapsed_s: float = 0.0

    def add(self, record: RequestRecord) -> None:
        self.n_requests += 1
        if record.error is not None:
            self.n_refused += not record.was_let_in
            self.n_errors += record.was_let_in
        self.n_prompt_tokens += record.n_prompt_tokens or 0
        self.n_completion_tokens += record.n_completion_tokens or 0
        self.n_cached_tokens += record.n_cached_tokens or 0
        self.elapsed_s += record.elapsed_s

    def __iadd__(self, other: Counts) -> Counts:
        self.n_requests += other.n_requests
        self.n_errors += other.n_errors
        self.n_refused += other.n_refused
        self.n_prompt_tokens += other.n_prompt_tokens
        self.n_completion_tokens += other.n_completion_tokens
        self.n_cached_tokens += other.n_cached_tokens
        self.elapsed_s += other.elapsed_s
        return self

    def as_tuple(self) -> tuple[float, ...]:
        return astuple(self)


def account_of(record: RequestRecord) -> Account | None:
    """None for what is no use of a model: a question about its state, an admin's action, a request without a key."""
    if record.key_id is None or record.service is None or record.method != "POST":
        return None
    if record.path.startswith(_ADMIN):
        return None
    day = int(record.ended_at // _DAY_S)
    return Account(day, record.key_id, record.service, record.model or "", record.engine or "")


def as_date(day: int) -> date:
    return datetime.fromtimestamp(day * _DAY_S, UTC).date()
