"""What every request passes: an id, one line in the log, and errors in one shape."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Final

import orjson
import structlog
from aiohttp import hdrs, web

from backends import quiet_logging, request_id
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

_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_OTHER: Final = "other"

log = structlog.get_logger("request")


@web.middleware
async def identify_and_log(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The client's `x-request-id` where it is a sound one, else a new one; the answer carries it.

    The request's record is begun here, and at its end logged and shown to the application's observers.
    """
    request[REQUEST_ID] = request_id.request_id(request.headers.get(request_id.HEADER))
    method = request.method if request.method in hdrs.METH_ALL else _OTHER
    record = request[RECORD] = RequestRecord(
        request[REQUEST_ID], method, _path_of(request), started_at=time.time(), client=request.remote
    )
    started = time.perf_counter()
    try:
        response = await handler(request)
        record.status = response.status
        return response
    finally:
        record.elapsed_s = time.perf_counter() - started
        log.log(logging.DEBUG if record.is_page_part else logging.INFO, "request", **record.log_fields())
        for observe in request.app.get(OBSERVERS, ()):
            observe(record)


def _path_of(request: web.Request) -> str:
    """The path as it is routed, never as a client wrote it: what is mistyped may be anything."""
    resource = request.match_info.route.resource
    if resource is not None:
        return resource.canonical
    known = (route.resource.canonical for route in request.app.router.routes() if route.resource)
    return next((path for path in known if path == request.path), _OTHER)


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
    request[RECORD].error = problem.code if _CODE.fullmatch(problem.code) else _OTHER  # an engine's may be anything
    stream = request.get(STREAM)
    if stream is not None and stream.is_open:
        await stream.fail(problem)
        answer: web.StreamResponse = stream.response
        return answer
    return json_response(problem.body(), status=problem.status, headers=problem.headers)


def _log_unexpected(error: Exception, name: str) -> None:
    """Kind and place only: the message might repeat what was sent."""
    log.error("unexpected error", **quiet_logging.in_short(error), request_id=name)


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
        response.headers[request_id.HEADER] = request[REQUEST_ID]


def json_response(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, headers=headers, content_type="application/json")
