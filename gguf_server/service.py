"""One service at run time: its settings, its engines, who may use them now, and what it has done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from backends.openai_schema import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationRequest,
    Message,
)
from gguf_server import context, images
from gguf_server.admission import Admission, Place
from gguf_server.chain import EngineChain
from gguf_server.errors import BadRequest, Draining, ModelNotFound, NotFound, Paused, TimedOut
from gguf_server.live_figures import LiveFigures, Writing
from gguf_server.serving import Serving
from gguf_server.settings import ServiceSettings
from gguf_server.turnstile import ANYBODY, Visitor

# What is passed on to the engine besides the fields that the gateway itself sets. Anything else that a client sends
# is accepted and left out: OpenAI's clients keep adding fields that mean nothing here.
_PASSED_ON = frozenset(
    {
        "bad_words",
        "best_of",
        "echo",
        "frequency_penalty",
        "guided_choice",
        "guided_grammar",
        "guided_json",
        "guided_regex",
        "ignore_eos",
        "include_reasoning",
        "include_stop_str_in_output",
        "logit_bias",
        "logprobs",
        "min_p",
        "min_tokens",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt",
        "reasoning_effort",
        "repetition_penalty",
        "response_format",
        "seed",
        "skip_special_tokens",
        "stop",
        "stop_token_ids",
        "stream_options",
        "structured_outputs",
        "suffix",
        "temperature",
        "thinking_token_budget",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
    }
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A body for the engine, and what had to be done to the client's to make it fit."""

    body: dict[str, Any]
    n_dropped: int = 0


@dataclass(slots=True)
class Totals:
    """Since start. `n_unknown_fields` counts what clients sent and nobody knows."""

    n_requests: int = 0
    n_prompt_tokens: int = 0
    n_completion_tokens: int = 0
    n_truncated: int = 0
    n_failovers: int = 0
    n_unknown_fields: int = 0


@dataclass(slots=True, eq=False)
class Service:
    """A request stays with the one it began with: settings and engines of the same moment.

    `successor`: the one that takes the requests which come after.
    """

    name: str
    settings: ServiceSettings
    chain: EngineChain
    admission: Admission
    totals: Totals = field(default_factory=Totals)
    figures: LiveFigures = field(default_factory=LiveFigures)
    started_at: float = field(default_factory=time.time)
    draining: bool = False
    is_paused: bool = False
    is_gone: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    successor: Service | None = None
    _deadlines: set[asyncio.Timeout] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not self._deadlines:
            self.idle.set()

    @property
    def current(self) -> Service:
        """What this service has become since, for requests that have not begun."""
        service = self
        while service.successor is not None:
            service = service.successor
        return service

    @property
    def takes_requests(self) -> bool:
        return not (self.draining or self.is_paused)

    def become(self, settings: ServiceSettings, chain: EngineChain) -> Service:
        """Hand over to the same service under other settings, or with other engines; requests are counted together."""
        self.successor = replace(self, settings=settings, chain=chain)
        return self.successor

    @asynccontextmanager
    async def turn(self, visitor: Visitor = ANYBODY) -> AsyncIterator[Place]:
        """A request's time: in the queue, then computing. Raises `Draining`, `QueueFull` and `TimedOut`."""
        if self.is_gone:
            raise NotFound("this service is not offered any more")
        if self.draining:
            raise Draining("the server is shutting down", retry_after_s=5)
        if self.is_paused:
            raise Paused("an operator has this service take no requests for now", retry_after_s=10)
        self.totals.n_requests += 1
        timeout = asyncio.timeout(self.settings.timeout_s)
        self._deadlines.add(timeout)
        self.idle.clear()
        try:
            async with timeout, self.admission.permit(visitor) as place:
                yield place
        except TimeoutError:
            if not timeout.expired():
                raise
            if self.current.draining:
                raise Draining("the server shut down before the answer was finished", retry_after_s=5) from None
            raise TimedOut(f"the request ran longer than {self.settings.timeout_s:g} s") from None
        finally:
            self._deadlines.discard(timeout)
            if not self._deadlines:
                self.idle.set()

    @property
    def n_in_flight(self) -> int:
        return len(self._deadlines)

    def running_answers(self) -> Iterator[Writing]:
        """What the streams that have not ended yet have come to; a piece counts as a token."""
        servings = (link.serving for link in self.chain.links if link.serving is not None)
        return (Writing(*use.timer.so_far()) for serving in servings for use in serving.uses)

    def cut_off(self) -> None:
        """End every request that still runs, with an error each."""
        now = asyncio.get_running_loop().time()
        for timeout in self._deadlines:
            if not timeout.expired():  # one that is ending already cannot be set again
                timeout.reschedule(now)

    def check_model(self, model: str | None) -> None:
        """Raises `ModelNotFound`."""
        if model is not None and model not in self.settings.model_names:
            raise ModelNotFound(f"the model {model!r} does not exist here", param="model")

    def check(self, request: GenerationRequest, n_tokens_asked: int | None) -> None:
        """Raises `ModelNotFound`, and `BadRequest` for more tokens than this service gives."""
        self.check_model(request.model)
        limit = self.settings.max_tokens_limit or self.settings.max_model_len
        if n_tokens_asked is not None and n_tokens_asked > limit:
            raise BadRequest(f"max_tokens is {n_tokens_asked}, this service gives at most {limit}", param="max_tokens")
        self.totals.n_unknown_fields += len((request.model_extra or {}).keys() - _PASSED_ON)

    async def prepare_chat(self, request: ChatCompletionRequest, serving: Serving, request_id: str) -> Prepared:
        """The engine's body of a chat. Raises `ContextExceeded`, `BadRequest` and `EngineError`."""
        settings = self.settings
        images.check(request.messages, settings)
        messages = [_normal(message) for message in request.messages]
        kwargs = request.template_kwargs
        if request.reasoning_effort == "none":
            kwargs.setdefault("enable_thinking", False)  # more effort than that does not switch it on
        if settings.enable_thinking is not None:
            kwargs.setdefault("enable_thinking", settings.enable_thinking)
        template: dict[str, Any] = {"chat_template_kwargs": kwargs} if kwargs else {}
        if request.continue_final_message:
            template |= {"continue_final_message": True, "add_generation_prompt": False}
        max_tokens = request.token_budget or settings.default_max_tokens
        fit = context.Fit(tuple(messages), max_tokens, 0)
        if context.upper_bound(request) + max_tokens > settings.max_model_len:

            async def count(some: Any) -> int | None:
                asked = {"model": settings.model, "messages": _dump(some), **template}
                if request.tools:
                    asked["tools"] = request.tools
                return await serving.client.count_tokens(asked, request_id)

            keep_last = bool(request.continue_final_message)
            fit = await context.fit(messages, max_tokens, settings.max_model_len, count, keep_last=keep_last)
        self.totals.n_truncated += bool(fit.n_dropped)
        body = {
            **self._common(request),
            **template,
            "messages": _dump(fit.messages),
            "max_tokens": fit.max_tokens,
        }
        return Prepared(body, fit.n_dropped)

    def prepare_completion(self, request: CompletionRequest) -> Prepared:
        """The engine's body of a text completion. An engine clamps max_tokens to what the context leaves.

        Raises `BadRequest` for a prompt that holds nothing.
        """
        if not request.prompt:
            raise BadRequest("the prompt is empty", param="prompt")
        body = self._common(request)
        asked = request.max_tokens
        body["max_tokens"] = self.settings.default_max_tokens if asked is None else asked
        return Prepared(body)

    def prepare_embedding(self, request: EmbeddingRequest) -> Prepared:
        """The engine's body of a request for vectors. Raises `BadRequest` for an input that holds nothing."""
        if not request.input:
            raise BadRequest("the input is empty", param="input")
        self.totals.n_unknown_fields += len(request.model_extra or {})
        said = request.model_dump(exclude_none=True, include=set(EmbeddingRequest.model_fields))
        return Prepared({**said, "model": self.settings.model})

    def _common(self, request: GenerationRequest) -> dict[str, Any]:
        """What the client said, over the service's defaults."""
        defaults = self.settings.sampling.model_dump(exclude_none=True)
        said = request.model_dump(exclude_none=True, include=set(_PASSED_ON))
        extra = {key: value for key, value in (request.model_extra or {}).items() if key in _PASSED_ON}
        return {**defaults, **extra, **said, "model": self.settings.model}


def _dump(messages: Any) -> list[dict[str, Any]]:
    return [message.model_dump(exclude_none=True) for message in messages]


def _normal(message: Message) -> Message:
    """In one spelling, or both where engines differ: `developer` is `system`, vLLM counts `reasoning` alone."""
    update: dict[str, Any] = {"role": "system"} if message.role == "developer" else {}
    spelt = message.model_extra or {}
    if reasoning := spelt.get("reasoning") or spelt.get("reasoning_content"):
        update |= {"reasoning": reasoning, "reasoning_content": reasoning}
    return message.model_copy(update=update) if update else message
