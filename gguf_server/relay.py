"""Server-sent events from engines to a client: bytes pass through whole events at a time, unread but for a few marks.

What was sent is kept, still unread, so that another engine can go on where one broke off. Whatever happens, a stream
that was begun ends with `data: [DONE]`, after a `data: {"error": …}` where nobody could go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

from gguf_server import events
from gguf_server.dialect_errors import error_fields, status_of
from gguf_server.engine_client import EngineError, Fault, refusal
from gguf_server.errors import GatewayError

KEEP_ALIVE_S: Final = 15.0
_KEEP_ALIVE: Final = b": keep-alive\n\n"  # Continue loses text after any other comment
_MAX_EVENT_BYTES: Final = 16 << 20

Rewrite = Callable[[bytes], bytes]
"""One event → what the client is to see of it, perhaps nothing."""


class EventStream:
    """The answer to one streaming request; held as a context for as long as comments are to bridge its silences.

    Nothing is sent before an engine's first event, so that until then a failure has a status code. Engines are always
    asked for their usage, which is in `usage` afterwards; a client that did not ask for it (`show_usage`) is not sent
    that event.
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
        self.sent: list[bytes] = []
        self.opened_at: float | None = None  # by `time.perf_counter`
        self.response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
                **headers,
            }
        )
        self._keeping_alive: asyncio.Task[None] | None = None
        self._done = False
        self._wrote = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_keeping_alive()

    @property
    def is_open(self) -> bool:
        """Whether the client has the headers, so that a failure can only be told as an event."""
        return self.response.prepared

    async def relay(self, chunks: AsyncIterator[bytes], rewrite: Rewrite | None = None) -> None:
        """Pass events on until the engine has said `[DONE]`.

        Raises `EngineError` where it ends without or tells of a failure of its own, and the `GatewayError` that its
        refusal amounts to; all that was whole before has been sent.
        """
        pending = b""
        async for chunk in chunks:
            pending = pending + chunk if pending else chunk
            end = pending.rfind(events.END)
            if end < 0:
                if len(pending) > _MAX_EVENT_BYTES:
                    raise EngineError("the engine sent an event without an end")
                continue
            whole, pending = pending[: end + 2], pending[end + 2 :]
            if not events.looks_sound(whole):
                raise EngineError("the engine sent something that is not an event")
            if rewrite is not None or events.needs_reading(whole):
                await self._send_read(whole, rewrite)
            else:
                await self._send(whole)
            if self._done:
                break
        if not self._done:
            raise EngineError("the engine ended this answer before it was finished", Fault.BROKE_OFF)
        await self._close()

    async def send(self, event: dict[str, Any]) -> None:
        """An event of the gateway's own."""
        await self._send(events.encode(event))

    async def finish(self) -> None:
        """End a stream whose engine did not come to its `[DONE]` although all the rest was there."""
        await self._send(events.DONE)
        await self._close()

    async def fail(self, error: GatewayError) -> None:
        """End an open stream with an error."""
        if not self._done:
            self._done = True
            await self.response.write(events.encode(error.body()) + events.DONE)
        await self._close()

    async def _close(self) -> None:
        self._stop_keeping_alive()
        await self.response.write_eof()

    def _stop_keeping_alive(self) -> None:
        if self._keeping_alive is not None:
            self._keeping_alive.cancel()

    async def _send(self, whole: bytes) -> None:
        if self._keeping_alive is None:
            self.opened_at = time.perf_counter()
            await self.response.prepare(self._request)
            self._keeping_alive = asyncio.create_task(self._keep_alive())
        self._wrote = True
        self._done = whole.endswith(events.DONE)
        self.sent.append(whole)
        await self.response.write(whole)

    async def _send_read(self, whole: bytes, rewrite: Rewrite | None) -> None:
        """Send events that have to be looked at one by one."""
        shown = []
        problem: Exception | None = None
        for event in events.split(whole):
            if events.is_error(event):
                problem = _problem(event)
                break
            if rewrite is not None:
                event = rewrite(event)
            if events.has_no_choices(event):
                self.usage = events.usage_of(event) or self.usage
                if not self._show_usage:
                    continue
            shown.append(events.spell_reasoning_twice(event))
        if out := b"".join(shown):
            await self._send(out)
        if problem is not None:
            raise problem

    async def _keep_alive(self) -> None:
        """A comment now and then while the engine is silent, so that no proxy in between gives up."""
        with contextlib.suppress(ConnectionResetError):  # the client has left: the relay is about to notice
            while True:
                self._wrote = False
                await asyncio.sleep(self._keep_alive_s)
                if not self._wrote:
                    await self.response.write(_KEEP_ALIVE)


def _problem(event: bytes) -> Exception:
    """What an engine's error event amounts to: the client's mistake where it says so, else the engine's failure."""
    body = events.decode(event) or {}
    error = body.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) else 500
    if 400 <= (meant := status_of(status, body)) < 500:
        return refusal(meant, *error_fields(body))
    return EngineError("the engine failed inside this answer", Fault.ANSWERED_5XX)
