"""What of this package an application goes through: middlewares inside of the one that renders errors, and headers."""

from __future__ import annotations

from aiohttp import web

from gguf_server.errors import RequestTooSlow, UnsupportedEncoding
from gguf_server.gateway import Gateway
from gguf_server.listening.clients import client_behind
from gguf_server.listening.connection import Connection
from gguf_server.listening.cors import add_cors_headers, preflight
from gguf_server.listening.hosts import check_host
from gguf_server.listening.security_headers import add_security_headers
from gguf_server.middleware import Handler
from gguf_server.request_record import RECORD

_ENCODINGS = frozenset(("", "identity", "gzip", "deflate"))


@web.middleware
async def watch_pace(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outermost: tells the connection what its request is about, and closes one whose body was not wanted."""
    connection, body = request.protocol, request.content
    if not isinstance(connection, Connection):
        return await handler(request)
    connection.begin_request(body)
    try:
        response = await handler(request)
    finally:
        connection.end_request(is_last=not body.is_eof())
    if not body.is_eof():
        response.force_close()
        if isinstance(body.exception(), RequestTooSlow):
            body.feed_eof()  # or aiohttp would wait for the rest
    return response


def protect(app: web.Application, gateway: Gateway) -> None:
    """The settings are read at each request, for they may change while the server runs."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        settings = gateway.settings
        if trusted := settings.connections.trusted_proxies:
            forwarded = request.headers.getall("X-Forwarded-For", [])
            request[RECORD].client = client_behind(request.remote or "", forwarded, trusted)
        check_host(request.host, settings.server)
        if (allowed := preflight(request, settings.cors)) is not None:
            return allowed
        if request.headers.get("Content-Encoding", "").strip().lower() not in _ENCODINGS:
            raise UnsupportedEncoding("the body's Content-Encoding is not known here: use gzip or deflate, or none")
        return await handler(request)

    async def add_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
        settings = gateway.settings
        add_security_headers(response, is_https=settings.tls.is_on)
        add_cors_headers(request, response, settings.cors)

    app.middlewares.insert(0, watch_pace)
    app.middlewares.append(guard)
    app.on_response_prepare.append(add_headers)
