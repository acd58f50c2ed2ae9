"""Limits in a request's way: what its key may do, its count, and the headers of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from aiohttp import web

from backends.openai_schema import GenerationRequest
from gguf_server import events
from gguf_server.errors import BadRequest, Draining, NotReady, Paused, QueueFull, TimedOut
from gguf_server.keys import KeyIdentity
from gguf_server.limits import spending
from gguf_server.limits.headers import rate_limit_headers
from gguf_server.limits.limiter import Limiter
from gguf_server.limits.meters import Reading
from gguf_server.limits.policy import KeyLimits, Priority
from gguf_server.limits.spending import Cost
from gguf_server.middleware import IDENTITY, STREAM
from gguf_server.request_record import RECORD, RequestRecord
from gguf_server.turnstile import Visitor

Body = TypeVar("Body", bound=GenerationRequest)

LIMITER: Final = web.AppKey("limiter", Limiter)
LIMITS: Final = web.RequestKey("limits", KeyLimits)
"""What the key of this request may do; there wherever a key is asked for."""
_READINGS: Final = web.RequestKey("rate_limit_readings", tuple[Reading, ...])

_OURS: Final = (QueueFull, NotReady, Draining, Paused)
"""Refusals for which the client can do nothing: they are not counted."""


def check(request: web.Request, identity: KeyIdentity, service: str | None) -> None:
    """Learn what this key may do. `service`: None for what belongs to no service. Raises `PermissionDenied`."""
    limiter = request.app[LIMITER]
    limits = request[LIMITS] = limiter.limits_of(identity)
    if service is not None:
        limiter.check_service(limits, service)


def within_max_tokens(body: Body, asked: int | None, default: int, limits: KeyLimits) -> Body:
    """The body with no more than this key may ask for. `default`: what is meant by not asking.

    Raises `BadRequest` for a client that asked for more.
    """
    limit = limits.max_tokens
    if not limit:
        return body
    if asked is None:
        return body.model_copy(update={"max_tokens": limit}) if default > limit else body
    if asked > limit:
        raise BadRequest(f"max_tokens is {asked}, this API key may ask for at most {limit}", param="max_tokens")
    return body


def visitor(request: web.Request, cost: Cost) -> Visitor:
    """Who this request is in the queue."""
    limits = request[LIMITS]
    rank = (limits.priority or Priority.NORMAL).rank
    return Visitor(request[IDENTITY].id, rank, limits.max_concurrent or None, max(1, cost.n_tokens))


def n_told(record: RequestRecord) -> int | None:
    """Tokens as the engine has counted them, or as they were estimated; None where it did not come to that."""
    if record.n_prompt_tokens is None or record.n_completion_tokens is None:
        return None
    return record.n_prompt_tokens + record.n_completion_tokens


@asynccontextmanager
async def counted(request: web.Request, cost: Cost, was_asked: Callable[[], bool]) -> AsyncIterator[None]:
    """Held from before the queue to the end of the answer. `was_asked`: whether an engine has been asked.

    Raises `RequestsExceeded` and `TokensExceeded`.
    """
    limiter = request.app[LIMITER]
    lease = await limiter.admit(request[IDENTITY].id, request[LIMITS], cost.n_tokens)
    if lease is not None:
        request[_READINGS] = lease.readings
    try:
        yield
    except _OURS:
        if lease is not None:
            request[_READINGS] = await limiter.forget(lease)
        raise
    except BaseException as error:
        may_have_been_computed = isinstance(error, asyncio.CancelledError | ConnectionResetError | TimedOut)
        _estimate_unfinished(request, cost, was_asked(), may_have_been_computed)
        if lease is not None:
            request[_READINGS] = await limiter.settle(lease, n_told(request[RECORD]) or 0)
        raise
    if lease is not None:
        told = n_told(request[RECORD])
        request[_READINGS] = await limiter.settle(lease, cost.n_tokens if told is None else told)


def _estimate_unfinished(request: web.Request, cost: Cost, was_asked: bool, may_have_been_computed: bool) -> None:
    """Into the record, so that whoever counts tokens counts the same ones."""
    record = request[RECORD]
    if n_told(record) is not None:
        return
    stream = request.get(STREAM)
    n_events = None if stream is None else sum(whole.count(events.END) for whole in stream.sent)
    spent = spending.unfinished(
        cost, was_asked=was_asked, may_have_been_computed=may_have_been_computed, n_events=n_events
    )
    if spent.n_tokens:
        record.n_prompt_tokens, record.n_completion_tokens = spent.n_prompt, spent.n_completion
        record.is_estimated = True


async def add_rate_limit_headers(request: web.Request, response: web.StreamResponse) -> None:
    """For `on_response_prepare`: on every answer to a key whose requests are counted, refusals too."""
    limits = request.get(LIMITS)
    if limits is None or not limits.has_rates:
        return
    readings = request.get(_READINGS)
    if readings is None:
        readings = await request.app[LIMITER].read(request[IDENTITY].id, limits)
    response.headers.update(rate_limit_headers(readings))
