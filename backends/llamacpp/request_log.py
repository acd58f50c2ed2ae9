"""One line in the worker's log for each request, by the name that the gateway's log has for it; nothing of its content.

A path is that of a route, and not what a client wrote.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from aiohttp import hdrs, web

from backends import quiet_logging, request_id

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CLIENT_LEFT_STATUS: Final = 499
REQUEST_ID: Final = web.RequestKey("request_id", str)

_UNLOGGED: Final = ("/health", "/metrics")  # asked every few seconds
_OTHER: Final = "other"

log = structlog.get_logger("worker")


@web.middleware
async def identify_and_log(request: web.Request, handler: Handler) -> web.StreamResponse:
    request[REQUEST_ID] = request_id.request_id(request.headers.get(request_id.HEADER))
    started = time.perf_counter()
    status = CLIENT_LEFT_STATUS
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else _OTHER
        if path not in _UNLOGGED:
            method = request.method if request.method in hdrs.METH_ALL else _OTHER
            elapsed_ms = round(1000 * (time.perf_counter() - started), 1)
            said = {"method": method, "path": path, "status": status, "elapsed_ms": elapsed_ms}
            log.info("request", **said, request_id=request[REQUEST_ID])


def log_unexpected(error: Exception, request: web.Request) -> None:
    """Kind and places only: the message might repeat what was sent."""
    log.error("unexpected error", **quiet_logging.in_short(error), request_id=request[REQUEST_ID])


async def add_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """For `on_response_prepare`."""
    if REQUEST_ID in request:
        response.headers[request_id.HEADER] = request[REQUEST_ID]
