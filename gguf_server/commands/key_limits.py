"""Limits of a key as a person writes and reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from gguf_server.limits.policy import NO_LIMITS, KeyLimits, as_utc

NEVER: Final = "never"
ALL: Final = "all"
_SPAN: Final = re.compile(r"(\d{1,6})\s*([dhm])")
_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes"}
_AMOUNTS: Final = {
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "requests_per_day": "requests a day",
    "tokens_per_day": "tokens a day",
    "max_concurrent": "at once",
    "max_tokens": "max_tokens",
}


class NoSuchTime(ValueError):
    """The message says how one is written."""


def expiry(text: str, now: datetime) -> str | None:
    """When that is, as `KeyLimits.expires` has it; None for never. A day ends a key when it begins, by UTC."""
    if text == NEVER:
        return None
    try:
        if span := _SPAN.fullmatch(text):
            return as_utc(now + timedelta(**{_UNITS[span[2]]: int(span[1])}))
        at = datetime.fromisoformat(text)
        return as_utc(at if at.tzinfo is not None else at.replace(tzinfo=UTC))
    except (ValueError, OverflowError) as error:
        raise NoSuchTime(
            f"{text!r} is no time: write a day (2027-01-01), a time (2027-01-01T08:00+07:00), a span (90d, 12h) "
            f"or {NEVER}"
        ) from error


def changed(
    limits: KeyLimits, *, clear: bool, amounts: dict[str, Any], services: Sequence[str] | None, expires: str | None
) -> KeyLimits:
    """`amounts` by their names, None where nothing was said. `services`: none said, or `all`, or names.

    `expires` as a person writes it, None where nothing was said. Raises `NoSuchTime`.
    """
    limits = NO_LIMITS if clear else limits
    limits = replace(limits, **{name: value for name, value in amounts.items() if value is not None})
    if services:
        limits = replace(limits, services=None if ALL in services else tuple(dict.fromkeys(services)))
    if expires is not None:
        limits = replace(limits, expires=expiry(expires, datetime.now(UTC)))
    return limits


def describe(limits: KeyLimits | None, now: datetime) -> str:
    """In one line; nothing for none."""
    if limits is None:
        return ""
    amounts = ((getattr(limits, name), words) for name, words in _AMOUNTS.items())
    said = [f"{value or 'any'} {words}" for value, words in amounts if value is not None]
    if limits.services is not None:
        said.append(f"only {', '.join(limits.services)}")
    if limits.priority is not None:
        said.append(f"{limits.priority} priority")
    if limits.expires is not None:
        has_expired = limits.has_expired(now.timestamp())
        said.append(f"{'expired' if has_expired else 'until'} {limits.expires}")
    return ", ".join(said)
