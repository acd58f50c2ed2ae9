"""What a browser lets pages of other origins do here: nothing, unless `[cors] origins` says so.

Requests carry their key in a header and never cookies, so no credentials are allowed, and the headers that a page wants
to send (SDKs have many of their own) are allowed as they are asked for.
"""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from gguf_server.settings.listening import CorsSettings

_METHODS: Final = "GET, POST, OPTIONS"
_SHOWN: Final = ", ".join(
    (
        "x-request-id",
        "x-engine",
        "x-engine-failovers",
        "x-context-truncated",
        "retry-after",
        "x-ratelimit-limit-requests",
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-requests",
        "x-ratelimit-reset-tokens",
    )
)
_HEADER_NAMES: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+( *, *[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")


def preflight(request: web.Request, cors: CorsSettings) -> web.Response | None:
    """The answer to a browser that asks whether a page may; None for any other request."""
    if request.method != "OPTIONS" or "Origin" not in request.headers or not cors.origins:
        return None
    if "Access-Control-Request-Method" not in request.headers:
        return None
    response = web.Response(status=204)
    if not _is_allowed(request, cors):
        return response
    response.headers["Access-Control-Allow-Methods"] = _METHODS
    response.headers["Access-Control-Max-Age"] = str(cors.max_age_s)
    wanted = request.headers.get("Access-Control-Request-Headers", "")
    if _HEADER_NAMES.fullmatch(wanted):
        response.headers["Access-Control-Allow-Headers"] = wanted
    if request.headers.get("Access-Control-Request-Private-Network") == "true":
        response.headers["Access-Control-Allow-Private-Network"] = "true"
    return response


def add_cors_headers(request: web.BaseRequest, response: web.StreamResponse, cors: CorsSettings) -> None:
    """On every answer: errors are to be read by the page too."""
    if not cors.origins:
        return
    response.headers.add("Vary", "Origin")
    if _is_allowed(request, cors):
        response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
        response.headers["Access-Control-Expose-Headers"] = _SHOWN


def _is_allowed(request: web.BaseRequest, cors: CorsSettings) -> bool:
    origin = request.headers.get("Origin")
    return origin is not None and ("*" in cors.origins or origin.lower() in cors.origins)
