"""What a key may do. Kept with the key in its file; `[limits]` of the configuration speaks for keys that say nothing.

limit                what it holds
requests_per_minute  requests in any 60 seconds, all services together
tokens_per_minute    tokens of prompts and answers in any 60 seconds
requests_per_day     requests from midnight to midnight, UTC
tokens_per_day       tokens of the same day
max_concurrent       requests that one service computes at once; more of them wait
max_tokens           the largest max_tokens of a request
services             names of the services that it may use; absent: all
expires              when it ends, ISO 8601, UTC
priority             whose turn comes first where requests wait
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, Field


class Priority(StrEnum):
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 comes first."""
        return list(Priority).index(self)


def _check_time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("expected a time with its offset, such as 2027-01-01T00:00:00+00:00")
    return text


Amount = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """None is not said, and left to the default; 0 is no limit, whatever the default."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    requests_per_minute: Amount | None = None
    tokens_per_minute: Amount | None = None
    requests_per_day: Amount | None = None
    tokens_per_day: Amount | None = None
    max_concurrent: Amount | None = None
    max_tokens: Amount | None = None
    services: tuple[str, ...] | None = None
    expires: Annotated[str, AfterValidator(_check_time)] | None = None
    priority: Priority | None = None

    def said(self) -> dict[str, Any]:
        """Without what it does not say."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def over(self, defaults: KeyLimits) -> KeyLimits:
        """These limits, and the defaults' where these say nothing."""
        missing = {
            field.name: default
            for field in fields(self)
            if getattr(self, field.name) is None and (default := getattr(defaults, field.name)) is not None
        }
        return replace(self, **missing) if missing else self

    def allows(self, service: str) -> bool:
        return self.services is None or service in self.services

    def has_expired(self, now_s: float) -> bool:
        """`now_s`: since the epoch."""
        return self.expires is not None and datetime.fromisoformat(self.expires).timestamp() <= now_s

    @property
    def has_rates(self) -> bool:
        """Whether its requests have to be counted."""
        return bool(self.requests_per_minute or self.tokens_per_minute or self.requests_per_day or self.tokens_per_day)


NO_LIMITS = KeyLimits()


def as_utc(moment: datetime) -> str:
    """As `expires` has it."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")
