"""Server-sent events from an engine to a client: bytes pass through whole events at a time, unread but for the usage.

Whatever happens, a stream that was begun ends with `data: [DONE]`, after a `data: {"error": …}` where something broke.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import orjson
from aiohttp import web

from gguf_server.engine_client import EngineError
from gguf_server.errors import EngineBroke, GatewayError

KEEP_ALIVE_S: Final = 15.0
_KEEP_ALIVE: Final = b": keep-alive\n\n"  # Continue loses text after any other comment
_DONE: Final = b"data: [DONE]\n\n"
_EVENT_END: Final = b"\n\n"
_NO_CHOICES: Final = b'"choices":[]'  # the usage event; inside a text its quotes would be escaped
_MAX_EVENT_BYTES: Final = 16 << 20


class EventStream:
    """The answer to one streaming request. Nothing is sent before `relay` has the first event of the engine.

    The engine is always asked for its usage, which is in `usage` afterwards; a client that did not ask for it
    (`show_usage`) is not sent that event.
    """

    def __init__(
        self,
        request: web.Request,
        headers: dict[str, str],
        *,
        show_usage: bool = False,
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self._request = request
        self._show_usage = show_usage
        self._keep_alive_s = keep_alive_s
        self.usage: dict[str, Any] = {}
        self.response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
                **headers,
            }
        )
        self._done = False
        self._wrote = False

    @property
    def is_open(self) -> bool:
        """Whether the client has the headers, so that a failure can only be told as an event."""
        return self.response.prepared

    async def relay(self, chunks: AsyncIterator[bytes]) -> None:
        """Pass events on until the engine has said `[DONE]`. Raises `EngineBroke` where it ends without."""
        pending = b""
        keeping_alive: asyncio.Task[None] | None = None
        try:
            async for chunk in chunks:
                pending = pending + chunk if pending else chunk
                end = pending.rfind(_EVENT_END)
                if end < 0:
                    if len(pending) > _MAX_EVENT_BYTES:
                        raise EngineBroke("the engine sent an event without an end")
                    continue
                whole, pending = pending[: end + 2], pending[end + 2 :]
                if _NO_CHOICES in whole:
                    whole = self._take_usage(whole)
                if keeping_alive is None:
                    await self.response.prepare(self._request)
                    keeping_alive = asyncio.create_task(self._keep_alive())
                if whole:
                    self._wrote = True
                    self._done = whole.endswith(_DONE)
                    await self.response.write(whole)
        except EngineError as error:
            raise EngineBroke("the engine failed inside this answer") from error
        finally:
            if keeping_alive is not None:
                keeping_alive.cancel()
        if not self._done:
            raise EngineBroke("the engine ended this answer before it was finished")
        await self.response.write_eof()

    def _take_usage(self, events: bytes) -> bytes:
        """Read the usage event; returns what the client is to see."""
        shown = []
        for event in events.split(_EVENT_END)[:-1]:
            if _NO_CHOICES in event:
                with contextlib.suppress(orjson.JSONDecodeError):
                    self.usage = orjson.loads(event.removeprefix(b"data: ")).get("usage") or {}
                if not self._show_usage:
                    continue
            shown.append(event + _EVENT_END)
        return b"".join(shown)

    async def fail(self, error: GatewayError) -> None:
        """End an open stream with an error."""
        if not self._done:
            self._done = True
            await self.response.write(b"data: " + orjson.dumps(error.body()) + _EVENT_END + _DONE)
        await self.response.write_eof()

    async def _keep_alive(self) -> None:
        """A comment now and then while the engine is silent, so that no proxy in between gives up."""
        with contextlib.suppress(ConnectionResetError):  # the client has left: the relay is about to notice
            while True:
                self._wrote = False
                await asyncio.sleep(self._keep_alive_s)
                if not self._wrote:
                    await self.response.write(_KEEP_ALIVE)
