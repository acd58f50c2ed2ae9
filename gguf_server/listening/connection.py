"""One client's connection: aiohttp's, with an eye on its pace, and errors in our shape where HTTP itself is broken.

what is too slow                 told by                                   the end
headers of a request             no handler begun since their first byte   408, closed
the body, while it is read       bytes received against time               408 by the handler, closed
a client reading its answer      the transport's buffer stays full         aborted, which cancels the handler
the last bytes of a closed one   still there                               aborted
a handshake, an idle connection  asyncio's and aiohttp's own timeouts      closed
"""

from __future__ import annotations

import asyncio
import traceback
from http import HTTPStatus
from typing import Any, Final, cast

import orjson
import structlog
from aiohttp import StreamReader, web
from aiohttp.http_exceptions import BadHttpMessage, ContentEncodingError, LineTooLong

from gguf_server.errors import (
    BadRequest,
    ExpectationFailed,
    GatewayError,
    HeadersTooLarge,
    RequestTooSlow,
    UnsupportedEncoding,
)
from gguf_server.listening.connections import Connections
from gguf_server.listening.security_headers import add_security_headers

_LINGERING_S: Final = 10.0  # for the rest of a body that was refused, or its sender might not read why

log = structlog.get_logger("connection")


class Connection(web.RequestHandler):
    """`manager` is the server of an `AppRunner`."""

    __slots__ = (
        "_body",
        "_body_since",
        "_closing_since",
        "_connections",
        "_full_since",
        "_head_since",
        "_is_answering",
        "_n_bytes",
        "_refusal",
        "_wire",
        "client",
    )

    def __init__(self, manager: web.Server, connections: Connections, *, loop: asyncio.AbstractEventLoop) -> None:
        limits = connections.limits
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=limits.idle_timeout_s,
            max_line_size=limits.max_header_bytes,
            max_field_size=limits.max_header_bytes,
            lingering_time=_LINGERING_S,
            access_log=None,  # type: ignore[arg-type]  # as AppRunner passes it
        )
        self._connections = connections
        self._wire: asyncio.Transport | None = None
        self._refusal: GatewayError | None = None
        self._is_answering = False
        self._head_since: float | None = None
        self._full_since: float | None = None
        self._closing_since: float | None = None
        self._body: StreamReader | None = None
        self._body_since = 0.0
        self._n_bytes = 0
        self.client = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.client = str(peer[0]) if isinstance(peer, tuple) else ""
        self._refusal = self._connections.enter(self, self.client)
        if self._refusal is None:
            super().connection_made(transport)
        else:
            self._head_since = self._loop.time()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.leave(self)
        self._wire = self._body = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            self._say_and_close(self._refusal)
            return
        self._n_bytes += len(data)
        if data and not self._is_answering and self._head_since is None:  # aiohttp itself calls it with nothing
            self._head_since = self._loop.time()
        super().data_received(data)

    def pause_writing(self) -> None:
        self._full_since = self._loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._full_since = None
        super().resume_writing()

    def begin_request(self, body: StreamReader) -> None:
        """Its headers are whole; the handler is about to run."""
        self._is_answering = True
        self._head_since = None
        if not body.is_eof():
            self._body, self._body_since = body, self._loop.time()

    def end_request(self, *, is_last: bool) -> None:
        """`is_last`: the connection is about to be closed, what still comes begins no other request."""
        self._is_answering = is_last
        self._body = None
        self._n_bytes = 0

    def check(self, now: float) -> None:
        limits, wire = self._connections.limits, self._wire
        if wire is None:
            return
        if wire.is_closing():
            self._closing_since = self._closing_since or now
            if now - self._closing_since > limits.write_timeout_s:
                wire.abort()
        elif self._full_since is not None and now - self._full_since > limits.write_timeout_s:
            log.info("cut off", why="the client does not read its answer", client=self.client)
            wire.abort()
        elif self._head_since is not None and now - self._head_since > limits.header_timeout_s:
            self._say_and_close(
                self._refusal or RequestTooSlow(f"the headers took longer than {limits.header_timeout_s:g} s")
            )
        elif self._body is not None and not self._body.is_eof():
            allowed_s = limits.body_timeout_s + self._n_bytes / limits.min_body_bytes_per_s
            if now - self._body_since > allowed_s:
                late, self._body = self._body, None
                self.close()  # no further data is taken
                late.set_exception(RequestTooSlow("the body came too slowly"))

    def abort(self) -> None:
        if self._wire is not None:
            self._wire.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP, and what went wrong outside of any handler. `message` may repeat what was sent."""
        self._head_since = None
        if request.writer.output_size > 0:
            raise ConnectionError("the answer was begun already")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self.log_exception("unexpected error", exc_info=exc)
        else:
            log.info("not HTTP", kind=type(exc).__name__, client=self.client)
        response = _answer(_problem(status, exc))
        add_security_headers(response, is_https=self.ssl_context is not None)
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """An `Expect` that nobody here can meet is refused by aiohttp before any middleware."""
        self._head_since = None
        if isinstance(resp, web.HTTPExpectationFailed):
            resp = _answer(ExpectationFailed("only 'Expect: 100-continue' is understood here"))
        return await super().finish_response(request, resp, start_time)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Kind and place only: a message might repeat what was sent."""
        error = kw.get("exc_info")
        if isinstance(error, (web.RequestPayloadError, GatewayError)):
            return  # a body that was refused already, and cannot be read to its end
        place = traceback.format_tb(error.__traceback__) if isinstance(error, BaseException) else []
        log.error("unexpected error", kind=type(error).__name__, place=place, client=self.client)

    def _say_and_close(self, problem: GatewayError) -> None:
        self._head_since = None
        log.info("turned away", error=problem.code, client=self.client)
        if self._wire is not None and not self._wire.is_closing():
            self._wire.write(_raw(problem))
            self._wire.close()
        self.force_close()


def _answer(problem: GatewayError) -> web.Response:
    """The last one of its connection."""
    response = web.Response(
        body=orjson.dumps(problem.body()),
        status=problem.status,
        headers={**problem.headers, "Connection": "close"},
        content_type="application/json",
    )
    response.force_close()
    return response


def _problem(status: int, error: BaseException | None) -> GatewayError:
    if status == HTTPStatus.GATEWAY_TIMEOUT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return GatewayError("an internal error; the log has it")
    if isinstance(error, LineTooLong) or (
        isinstance(error, BadHttpMessage) and error.message.startswith("Too many headers")
    ):
        return HeadersTooLarge("the request line or a header is too long, or there are too many headers")
    if isinstance(error, ContentEncodingError):
        return UnsupportedEncoding("the body's Content-Encoding is not known here: use gzip or deflate, or none")
    return BadRequest("this is not a well-formed HTTP/1.1 request", code="malformed_request")


def _raw(problem: GatewayError) -> bytes:
    """An answer for a connection that has no request."""
    body = orjson.dumps(problem.body())
    lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in problem.headers.items()]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
