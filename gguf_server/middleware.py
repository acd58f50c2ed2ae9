"""What every request passes: an id, one line in the log, and errors in one shape."""

from __future__ import annotations

import re
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Final

import orjson
import structlog
from aiohttp import web

from gguf_server.engine_client import EngineError
from gguf_server.errors import BadRequest, BodyTooLarge, EngineBroke, GatewayError, MethodNotAllowed, NotFound
from gguf_server.keys import KeyIdentity
from gguf_server.relay import EventStream
from gguf_server.request_record import CLIENT_LEFT_STATUS, OBSERVERS, RECORD, RequestRecord

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID: Final = web.RequestKey("request_id", str)
IDENTITY: Final = web.RequestKey("identity", KeyIdentity)
"""Whose key the request carried; there wherever a key is asked for."""
STREAM: Final = web.RequestKey("stream", EventStream)

_GOOD_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")

log = structlog.get_logger("request")


@web.middleware
async def identify_and_log(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The client's `x-request-id` where it is a sound one, else a new one; the answer carries it.

    The request's record is begun here, and at its end logged and shown to the application's observers.
    """
    given = request.headers.get("x-request-id", "")
    request[REQUEST_ID] = given if _GOOD_REQUEST_ID.fullmatch(given) else f"req-{secrets.token_hex(12)}"
    record = request[RECORD] = RequestRecord(
        request[REQUEST_ID], request.method, request.path, started_at=time.time(), client=request.remote
    )
    started = time.perf_counter()
    try:
        response = await handler(request)
        record.status = response.status
        return response
    finally:
        record.elapsed_s = time.perf_counter() - started
        log.info("request", **record.log_fields())
        for observe in request.app.get(OBSERVERS, ()):
            observe(record)


@web.middleware
async def render_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what went wrong into OpenAI's error shape, or, in a stream that was begun, into its last event."""
    try:
        return await handler(request)
    except GatewayError as error:
        problem = error
    except EngineError:
        problem = EngineBroke("the engine failed inside this request")
    except web.HTTPException as error:
        problem = _as_gateway_error(error, request)
    except web.RequestPayloadError:
        problem = BadRequest("the body is not what its headers say: broken encoding, chunks or length", code="bad_body")
    except ConnectionResetError:  # nobody is there to be told; raised on, aiohttp would log it as our error
        return web.Response(status=CLIENT_LEFT_STATUS)
    except Exception as error:  # noqa: BLE001 - the request boundary
        _log_unexpected(error, request[REQUEST_ID])
        problem = GatewayError("an internal error; the log has it under this request's id")
    request[RECORD].error = problem.code
    stream = request.get(STREAM)
    if stream is not None and stream.is_open:
        await stream.fail(problem)
        answer: web.StreamResponse = stream.response
        return answer
    return json_response(problem.body(), status=problem.status, headers=problem.headers)


def _log_unexpected(error: Exception, request_id: str) -> None:
    """Kind and place only: the message might repeat what was sent."""
    place = traceback.format_tb(error.__traceback__)
    log.error("unexpected error", kind=type(error).__name__, place=place, request_id=request_id)


def _as_gateway_error(error: web.HTTPException, request: web.Request) -> GatewayError:
    """aiohttp's own answers: unknown paths, wrong methods, bodies over the limit."""
    if isinstance(error, web.HTTPNotFound):
        return NotFound(f"there is nothing at {request.path[:200]}")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return MethodNotAllowed(f"{request.path[:200]} takes {allowed}", headers={"Allow": allowed})
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return BodyTooLarge("the body is over the limit of this server")
    return BadRequest(error.reason)


async def add_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """For `on_response_prepare`: a stream's headers leave before its handler ends."""
    if REQUEST_ID in request:
        response.headers["x-request-id"] = request[REQUEST_ID]


def json_response(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, headers=headers, content_type="application/json")
