"""An OpenAI-compatible server that says what it is told to, for measuring the measurer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web


@dataclass
class FakeServer:
    """Answers `max_tokens` chunks of text to each request, unless told to fail.

    `says` are chunks to say instead, after `thoughts`; `says_bytes` is the whole body instead. `together` requests
    have to be in flight before any of them is answered. `steps_s` is what `/metrics` says, look after look: seconds
    with work to do, and inside `llama_decode`.
    """

    says_usage: bool = True
    status: int = 200
    ends_after: int | None = None
    breaks_after: int | None = None
    fails_after: int | None = None
    is_stuck: bool = False
    engine: str = ""
    says_bytes: bytes | None = None
    thoughts: tuple[str, ...] = ()
    says: tuple[str, ...] | None = None
    together: int = 1
    steps_s: list[tuple[float, float]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def app(self) -> web.Application:
        self._all_here = asyncio.Barrier(self.together)
        app = web.Application()
        app.router.add_post("/v1/completions", self._answer)
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "first"}, {"id": "second"}]})

    async def _metrics(self, request: web.Request) -> web.Response:
        if not self.steps_s:
            return web.Response(status=501)
        step_s, decode_s = self.steps_s.pop(0)
        lines = ("# HELP", f"gguf_worker_step_seconds_total {step_s}", f"gguf_worker_decode_seconds_total {decode_s}")
        return web.Response(text="\n".join(lines))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if self.status != 200:
            return web.Response(status=self.status, text="no room")
        await self._all_here.wait()
        headers = {"Content-Type": "text/event-stream"} | ({"x-engine": self.engine} if self.engine else {})
        answer = web.StreamResponse(headers=headers)
        await answer.prepare(request)
        if self.is_stuck:
            await asyncio.Event().wait()
        if self.says_bytes is not None:
            await answer.write(self.says_bytes)
            return answer
        for event in self._events(body["max_tokens"], is_chat="messages" in body):
            if event is None:
                assert request.transport is not None
                request.transport.abort()
                return answer
            await answer.write(b"data: " + event + b"\n\n")
        return answer

    def _events(self, max_tokens: int, *, is_chat: bool) -> list[bytes | None]:
        """None stands for a broken connection."""
        n_tokens = max_tokens if self.ends_after is None else self.ends_after
        word = {"delta": {"content": "word"}} if is_chat else {"text": "word"}
        events = [_event(word, None)] * n_tokens
        if self.says is not None:
            deltas = [{"reasoning": text} for text in self.thoughts] + [{"content": text} for text in self.says]
            events = [_event({"delta": delta}, None) for delta in deltas]
            n_tokens = len(events)
        if self.breaks_after is not None:
            return [*events[: self.breaks_after], None]
        if self.fails_after is not None:
            return [*events[: self.fails_after], orjson.dumps({"error": {"message": "engine died"}})]
        if is_chat:
            events.insert(0, _event({"delta": {"role": "assistant", "content": ""}}, None))
        events.append(_event({"text": ""}, "length" if n_tokens == max_tokens else "stop"))
        if self.says_usage:
            cached = {"cached_tokens": 3}
            usage = {"prompt_tokens": 20, "completion_tokens": n_tokens, "prompt_tokens_details": cached}
            events.append(orjson.dumps({"choices": [], "usage": usage}))
        return [*events, b"[DONE]"]


def _event(choice: dict[str, Any], finish_reason: str | None) -> bytes:
    return orjson.dumps({"choices": [{"index": 0, **choice, "finish_reason": finish_reason}]})
