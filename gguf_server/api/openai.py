"""OpenAI's endpoints of one service, and `/chat`, which is a shorter way to the same."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from aiohttp import web

from backends.openai_schema import ChatCompletionRequest, CompletionRequest, EmbeddingRequest
from backends.readiness import EMBEDDINGS_PATH
from gguf_server.api.schemas import ChatForm, parse
from gguf_server.audit.prompt_hash import PROMPT_HASHER
from gguf_server.dispatch import Dispatch, Prepare
from gguf_server.errors import ModelNotFound
from gguf_server.limits import requests as limits
from gguf_server.limits import spending
from gguf_server.limits.spending import Cost
from gguf_server.middleware import REQUEST_ID, STREAM, json_response
from gguf_server.relay import EventStream
from gguf_server.request_record import RECORD
from gguf_server.service import Prepared, Service
from gguf_server.serving import Serving
from gguf_server.trace import trace_of

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"


class OpenAIApi:
    """Handlers that answer for one service."""

    def __init__(self, service: Service) -> None:
        self._mounted = service

    @property
    def _service(self) -> Service:
        """The service may have changed while a request's body was on its way."""
        return self._mounted.current

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        body = parse(ChatCompletionRequest, await request.read())
        await _note_prompt(request, "messages", body.messages)
        if body.stream:
            return await self._stream_chat(request, body)
        answer, headers = await self._whole_chat(request, body)
        return json_response(answer, headers=headers)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`/chat`: `messages` always streams, `message` and `prompt` answer JSON unless asked to stream."""
        form = parse(ChatForm, await request.read())
        body = form.as_chat()
        await _note_prompt(request, "messages", body.messages)
        if not form.is_simple or form.stream:
            return await self._stream_chat(request, body)
        started = time.perf_counter()
        answer, headers = await self._whole_chat(request, body)
        message = answer["choices"][0]["message"]
        simple = {
            "response": message.get("content") or "",
            "model": self._service.settings.display_model,
            "elapsed_time": f"{time.perf_counter() - started:.2f}s",
            "usage": answer["usage"],
            "finish_reason": answer["choices"][0].get("finish_reason"),
        }
        if reasoning := message.get("reasoning_content"):
            simple["reasoning"] = reasoning
        return json_response(simple, headers=headers)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = parse(CompletionRequest, await request.read())
        await _note_prompt(request, "prompt", body.prompt)
        service, default = self._service, self._service.settings.default_max_tokens
        service.check(body, body.max_tokens)
        body = limits.within_max_tokens(body, body.max_tokens, default, request[limits.LIMITS])
        n_asked = (default if body.max_tokens is None else body.max_tokens) * body.n_generated
        cost = spending.of_prompts(body.prompt, n_asked, service.settings.max_model_len)

        async def prepare(_serving: Serving) -> Prepared:
            return service.prepare_completion(body)

        if body.stream:
            return await self._stream(request, COMPLETIONS_PATH, prepare, cost, show_usage=body.wants_usage)
        answer, headers = await self._whole(request, COMPLETIONS_PATH, prepare, cost)
        return json_response(answer, headers=headers)

    async def embeddings(self, request: web.Request) -> web.Response:
        body = parse(EmbeddingRequest, await request.read())
        await _note_prompt(request, "input", body.input)
        service = self._service
        service.check_model(body.model)
        cost = spending.of_prompts(body.input, 0, service.settings.max_model_len)

        async def prepare(_serving: Serving) -> Prepared:
            return service.prepare_embedding(body)

        answer, headers = await self._whole(request, EMBEDDINGS_PATH, prepare, cost)
        return json_response(answer, headers=headers)

    async def list_models(self, _request: web.Request) -> web.Response:
        return json_response({"object": "list", "data": [self._model_card(self._service.settings.model)]})

    async def show_model(self, request: web.Request) -> web.Response:
        model_id = request.match_info["id"]
        if model_id not in self._service.settings.model_names:
            raise ModelNotFound(f"the model {model_id!r} does not exist here", param="model")
        return json_response(self._model_card(model_id))

    async def _whole_chat(
        self, request: web.Request, body: ChatCompletionRequest
    ) -> tuple[dict[str, Any], dict[str, str]]:
        answer, headers = await self._whole(request, CHAT_PATH, *self._ready_chat(request, body))
        for choice in answer["choices"]:
            spell_reasoning_twice(choice["message"])
        return answer, headers

    async def _stream_chat(self, request: web.Request, body: ChatCompletionRequest) -> web.StreamResponse:
        return await self._stream(request, CHAT_PATH, *self._ready_chat(request, body), show_usage=body.wants_usage)

    def _ready_chat(self, request: web.Request, body: ChatCompletionRequest) -> tuple[Prepare, Cost]:
        """How an engine is to be asked, and what it is expected to cost. Raises as `Service.check` does."""
        service, default = self._service, self._service.settings.default_max_tokens
        service.check(body, body.token_budget)
        asked = limits.within_max_tokens(body, body.token_budget, default, request[limits.LIMITS])

        async def prepare(serving: Serving) -> Prepared:
            return await service.prepare_chat(asked, serving, request[REQUEST_ID])

        return prepare, spending.of_chat(asked, asked.token_budget or default, service.settings.max_model_len)

    async def _whole(
        self, request: web.Request, path: str, prepare: Prepare, cost: Cost
    ) -> tuple[dict[str, Any], dict[str, str]]:
        async with self._dispatch(request, path, prepare, cost) as dispatch:
            answer, serving, prepared = await dispatch.whole()
            self._account(request, answer.get("usage") or {})
        return answer, self._headers(request, serving, prepared, dispatch.n_failovers)

    async def _stream(
        self, request: web.Request, path: str, prepare: Prepare, cost: Cost, *, show_usage: bool
    ) -> web.StreamResponse:
        def announce(serving: Serving, prepared: Prepared) -> dict[str, str]:
            return self._headers(request, serving, prepared, dispatch.n_failovers)

        record = request[RECORD]
        record.is_stream = True
        started = time.perf_counter()
        stream = request[STREAM] = EventStream(request, {}, show_usage=show_usage)
        try:
            async with self._dispatch(request, path, prepare, cost) as dispatch, stream:
                await dispatch.stream(stream, announce)
                self._account(request, stream.usage)
        finally:
            if stream.opened_at is not None:
                record.ttft_s = stream.opened_at - started
        return stream.response

    @asynccontextmanager
    async def _dispatch(self, request: web.Request, path: str, prepare: Prepare, cost: Cost) -> AsyncIterator[Dispatch]:
        """A request's turn. Whom no engine serves is told so before they queue."""
        service, record = self._service, request[RECORD]
        record.model = service.settings.model
        trace = trace_of(request)
        dispatch = Dispatch(service.chain, path, prepare, request[REQUEST_ID], trace)
        started = time.perf_counter()
        try:
            service.chain.require()
            with ExitStack() as waiting:
                waiting.enter_context(trace.queueing())
                async with (
                    limits.counted(request, cost, lambda: dispatch.engine is not None),
                    service.turn(limits.visitor(request, cost)) as place,
                ):
                    waiting.close()
                    record.queued_s = time.perf_counter() - started
                    yield dispatch
                    place.n_used = limits.n_told(record)
        finally:
            service.totals.n_failovers += dispatch.n_failovers
            record.n_failovers = dispatch.n_failovers
            record.gap_s = dispatch.gap_s
            if dispatch.engine is not None:
                record.engine = dispatch.engine.name

    def _headers(self, request: web.Request, serving: Serving, prepared: Prepared, n_failovers: int) -> dict[str, str]:
        """Who answers, and what was done to the conversation."""
        headers = {"x-engine": serving.engine.name, "x-engine-failovers": str(n_failovers)}
        if prepared.n_dropped:
            headers["x-context-truncated"] = str(prepared.n_dropped)
            request[RECORD].n_dropped = prepared.n_dropped
        return headers

    def _account(self, request: web.Request, usage: dict[str, Any]) -> None:
        record, totals = request[RECORD], self._service.totals
        record.n_prompt_tokens = int(usage.get("prompt_tokens") or 0)
        record.n_completion_tokens = int(usage.get("completion_tokens") or 0)
        if isinstance(details := usage.get("prompt_tokens_details"), dict):
            record.n_cached_tokens = int(details.get("cached_tokens") or 0)
        totals.n_prompt_tokens += record.n_prompt_tokens
        totals.n_completion_tokens += record.n_completion_tokens

    def _model_card(self, model_id: str) -> dict[str, Any]:
        settings = self._service.settings
        return {
            "id": model_id,
            "object": "model",
            "created": int(self._service.started_at),
            "owned_by": "gguf-server",
            "max_model_len": settings.max_model_len,
            "aliases": list(settings.aliases),
        }


async def _note_prompt(request: web.Request, kind: str, prompt: object) -> None:
    """Leave the prompt's hash in the request's record, where the audit wants it."""
    if (hasher := request.app.get(PROMPT_HASHER)) is not None:
        request[RECORD].prompt_hash = await hasher.hash(kind, prompt, n_bytes=len(await request.read()))


def spell_reasoning_twice(message: dict[str, Any]) -> None:
    """`reasoning_content` and `reasoning` are two spellings that clients look for; engines write one or both."""
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if reasoning:
        message["reasoning_content"] = message["reasoning"] = reasoning
