"""One request's way through a chain of engines.

A request that an engine failed is asked of the next one: anew where the client has been sent nothing yet, else from
where the answer stopped. Each engine is asked once; where no other is left, the one that serves is asked a second time
if it was found sound after all, or was started anew. What an engine refuses with a 4xx is the client's mistake and
final.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from backends.base import Engine
from gguf_server import continuation, dialects
from gguf_server.chain import EngineChain, NoneLeft
from gguf_server.continuation import Begun, CannotContinue, Seam
from gguf_server.engine_client import EngineError, Fault
from gguf_server.errors import BadRequest, EngineBroke, GatewayError
from gguf_server.relay import EventStream, Rewrite
from gguf_server.service import Prepared
from gguf_server.serving import Serving, Use
from gguf_server.trace import UNTRACED, Tell, Trace

Prepare = Callable[[Serving], Awaitable[Prepared]]


log = structlog.get_logger("dispatch")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One engine's turn at a request. `body` is what it is asked, `rewrite` how its events fit those before."""

    serving: Serving
    prepared: Prepared
    body: dict[str, Any]
    rewrite: Rewrite | None = None


class Dispatch:
    """Used for one request, by one of `whole` and `stream`.

    `n_failovers`: how often it moved to another engine. `gap_s`: from one token to the next, of a stream that one
    engine gave.
    """

    def __init__(
        self, chain: EngineChain, path: str, prepare: Prepare, request_id: str, trace: Trace = UNTRACED
    ) -> None:
        self._chain = chain
        self._path = path
        self._prepare = prepare
        self._request_id = request_id
        self._trace = trace
        self._prepared: Prepared | None = None
        self._tried: list[Engine] = []
        self._last: Serving | None = None
        self._fault: Fault | None = None
        self._was_repeated = False
        self._moved: dict[str, Any] = {}
        self.n_failovers = 0
        self.gap_s: float | None = None

    @property
    def engine(self) -> Engine | None:
        """Who was asked last."""
        return self._last.engine if self._last else None

    async def whole(self) -> tuple[dict[str, Any], Serving, Prepared]:
        """The engine's answer, who gave it, and what it was asked. Raises `GatewayError`s."""
        while True:
            serving = await self._next_engine()
            try:
                async with self._using(serving) as (_, tell):
                    prepared = await self._prepare_once(serving)
                    body = {key: value for key, value in prepared.body.items() if key != "stream_options"} | self._moved
                    _check_dialect(serving, body)
                    answer = await serving.client.answer(self._path, body, self._request_id)
                    answer = dialects.without_beginning(serving.client.endpoint.dialect, body, answer)
                    tell(answer.get("usage") or {})
            except EngineError as error:
                self._note_failure(serving, error)
                continue
            serving.succeeded()
            return answer, serving, prepared

    async def stream(self, stream: EventStream, announce: Callable[[Serving, Prepared], dict[str, str]]) -> None:
        """Send an answer through `stream`. `announce` gives the headers, as long as they can be changed.

        Raises `GatewayError`s, for the middleware to send as the last event where the stream is open.
        """
        begun = Begun()
        while True:
            serving = await self._next_engine()
            try:
                async with self._using(serving) as (use, tell):
                    attempt = await self._attempt(serving, stream, begun)
                    if attempt is None:
                        return
                    if not stream.is_open:
                        stream.response.headers.update(announce(serving, attempt.prepared))
                    sending = serving.client.stream(self._path, attempt.body, self._request_id, use)
                    async with sending as chunks:
                        await stream.relay(chunks, attempt.rewrite)
                    tell(stream.usage)
            except EngineError as error:
                begun = continuation.read(stream.sent)
                self._note_failure(serving, error)
                if self._prepared is not None and begun.is_finished(self._prepared.body):
                    await stream.finish()
                    return
                self._check_continuable(begun)
                continue
            if attempt.rewrite is None:
                serving.finished(use, attempt.body, stream.usage)
                self.gap_s = use.timer.mean_gap_s(stream.usage)
            else:  # the usage is that of two engines
                serving.succeeded()
            return

    @asynccontextmanager
    async def _using(self, serving: Serving) -> AsyncIterator[tuple[Use, Tell]]:
        """Held while that engine is asked."""
        with self._trace.attempt(serving.engine.name, serving.engine.kind) as tell:
            async with serving.use() as use:
                yield use, tell

    async def _attempt(self, serving: Serving, stream: EventStream, begun: Begun) -> Attempt | None:
        """What to ask this engine; None where the answer was already as long as it may be, and was ended."""
        prepared = await self._prepare_once(serving)
        _check_dialect(serving, prepared.body)
        asked = prepared.body.get("stream_options") or {}
        body = {**prepared.body, **self._moved, "stream": True, "stream_options": {**asked, "include_usage": True}}
        if not stream.is_open:
            return Attempt(serving, prepared, body)
        seam = Seam(begun.head, serving.engine.name, self.n_failovers)
        if begun.is_silent:
            return Attempt(serving, prepared, body, seam.rewrite)
        endpoint = serving.client.endpoint
        if not dialects.can_continue(endpoint.dialect):
            raise EngineBroke(f"the engine failed inside this answer, and {serving.engine.name} cannot continue it")
        if begun.reasoning and not begun.content and not endpoint.continues_reasoning:
            raise EngineBroke(f"the engine failed in its reasoning, and {serving.engine.name} cannot continue that")
        seam.n_reasoned = await self._count(serving, begun.reasoning)
        seam.n_said = seam.n_reasoned + await self._count(serving, begun.content)
        if seam.n_said >= body["max_tokens"]:
            await self._end_by_length(stream, begun)
            return None
        fields = dialects.continuation_fields(endpoint.dialect)
        body = continuation.continued(body, begun, n_said=seam.n_said, fields=fields)
        return Attempt(serving, prepared, body, seam.rewrite)

    async def _count(self, serving: Serving, text: str) -> int:
        return await serving.client.count_text(text, self._request_id) if text else 0

    async def _end_by_length(self, stream: EventStream, begun: Begun) -> None:
        """The engine died between the last token and its last word."""
        said: dict[str, Any] = {"text": ""} if "messages" not in self._require_prepared().body else {"delta": {}}
        choice = {"index": 0, **said, "finish_reason": "length"}
        await stream.send({**begun.head, "choices": [choice]})
        await stream.finish()

    def _check_continuable(self, begun: Begun) -> None:
        """Tell the client at once where no engine could go on."""
        if begun.is_silent:
            return
        try:
            continuation.check(self._require_prepared().body, begun)
        except CannotContinue as why:
            raise EngineBroke(f"the engine failed inside this answer, which cannot be continued: {why}") from why

    async def _prepare_once(self, serving: Serving) -> Prepared:
        if self._prepared is None:
            self._prepared = await self._prepare(serving)
        return self._prepared

    def _require_prepared(self) -> Prepared:
        if self._prepared is None:
            raise RuntimeError("no engine was asked yet")
        return self._prepared

    async def _next_engine(self) -> Serving:
        """Raises `NotReady` where nobody was asked yet, `EngineBroke` where all who could be failed."""
        if self._last is None:
            self._go_where_new_requests_go()
        try:
            serving = await self._acquire()
        except GatewayError:
            self._note_move(None)
            raise
        if self._last is not None and serving.engine is not self._last.engine:
            self.n_failovers += 1
            self._note_move(serving.engine)
        self._last = serving
        return serving

    def _go_where_new_requests_go(self) -> None:
        """The service may have other engines by now, which call the model their own name."""
        while self._chain.successor is not None:
            self._chain = self._chain.successor
            self._moved = {} if self._chain.model is None else {"model": self._chain.model}
            self._fault = None  # moves are counted within a chain

    async def _acquire(self) -> Serving:
        try:
            return await self._chain.acquire(self._tried)
        except NoneLeft:
            if self._chain.successor is not None:
                self._go_where_new_requests_go()
                return await self._acquire()
            return self._same_again()

    def _note_move(self, target: Engine | None) -> None:
        if self._last is not None and self._fault is not None:
            self._chain.moves.request_moved(self._last.engine, target, self._fault)

    def _same_again(self) -> Serving:
        if self._last is None:
            self._chain.require()
        serving = self._chain.serving
        if serving is None or serving.is_suspect or self._was_repeated:
            raise EngineBroke("the engine failed inside this request, and no other could take it")
        self._was_repeated = True
        return serving

    def _note_failure(self, serving: Serving, error: EngineError) -> None:
        serving.failed()
        self._fault = error.fault
        if serving.engine not in self._tried:
            self._tried.append(serving.engine)
        log.warning(
            "request failed by its engine", engine=serving.engine.name, why=str(error), request_id=self._request_id
        )


def _check_dialect(serving: Serving, body: dict[str, Any]) -> None:
    """Raises `BadRequest` for what this engine would quietly do otherwise."""
    if body.get("continue_final_message") and not dialects.can_continue(serving.client.endpoint.dialect):
        raise BadRequest(
            f"{serving.engine.name}, which serves now, cannot continue a message", param="continue_final_message"
        )
