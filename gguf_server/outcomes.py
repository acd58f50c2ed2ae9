"""How a request ended, in the few words that figures are kept by."""

from __future__ import annotations

from enum import StrEnum
from http import HTTPStatus

from gguf_server.request_record import CLIENT_LEFT_STATUS, RequestRecord


class Outcome(StrEnum):
    """ANSWERED: whole. REFUSED: a 4xx. FAILED: a 5xx, or an error inside a stream. LEFT: by its client."""

    ANSWERED = "answered"
    REFUSED = "refused"
    FAILED = "failed"
    LEFT = "left"


def outcome_of(record: RequestRecord) -> Outcome:
    if record.status == CLIENT_LEFT_STATUS:
        return Outcome.LEFT
    if record.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Outcome.FAILED
    if record.status >= HTTPStatus.BAD_REQUEST:
        return Outcome.REFUSED
    return Outcome.ANSWERED if record.error is None else Outcome.FAILED


def is_asking(record: RequestRecord) -> bool:
    """Whether a service was asked for an answer, and not only looked at."""
    return record.method == "POST" and record.service is not None
