"""What the routes of one service do, in its own words: its name, its model, its limits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from backends.openai_schema import ChatCompletionRequest, CompletionRequest, EmbeddingRequest
from gguf_server.api import answers, ops_answers
from gguf_server.api.operations import Answer, Operation, Tag
from gguf_server.api.schemas import ChatForm
from gguf_server.errors import (
    AuditDown,
    BadRequest,
    ContextExceeded,
    Draining,
    EngineBroke,
    GatewayError,
    ModelNotFound,
    NotReady,
    Paused,
    QueueFull,
    RequestsExceeded,
    TimedOut,
)
from gguf_server.limits.headers import RATE_LIMIT_HEADERS
from gguf_server.settings import ServiceSettings

_TURN: Final[tuple[type[GatewayError], ...]] = (
    BadRequest,
    ContextExceeded,
    ModelNotFound,
    QueueFull,
    RequestsExceeded,
    EngineBroke,
    NotReady,
    Draining,
    Paused,
    AuditDown,
    TimedOut,
)
_BY_WHOM: Final = ("x-engine", "x-engine-failovers", *RATE_LIMIT_HEADERS)
_ABOUT_CHAT: Final = (*_BY_WHOM, "x-context-truncated")
_QUESTION: Final = [{"role": "user", "content": "Why does a fever rise in the evening?"}]


@dataclass(frozen=True)
class ServiceOperations:
    """Of a service that is mounted at `mount`, which is "" at a root."""

    settings: ServiceSettings
    mount: str

    @cached_property
    def tag(self) -> Tag:
        of = self.settings
        names = ", ".join(f"`{name}`" for name in (of.model, *of.aliases))
        where = f" at {self.mount}" if self.mount else ""
        takes = "text and images" if of.images else "text"
        return Tag(f"{of.title}{where}", f"Takes {takes} within {of.max_model_len} tokens. `model`: {names}, or none.")

    @property
    def health(self) -> Operation:
        return self._operation(
            id="getHealth",
            summary="Whether the service can answer",
            description="For load balancers.",
            answers={
                200: Answer(description="It can.", model=ops_answers.Health),
                503: Answer(
                    description="No engine can serve now.", model=ops_answers.NotHealthy, headers=("Retry-After",)
                ),
            },
            needs_key=False,
        )

    @property
    def status(self) -> Operation:
        return self._operation(
            id="getStatus",
            summary="The service in every detail",
            description="Which engine serves and why not the others, the queue, the cards, what was done since start.",
            answers={200: Answer(description="The state of the service.", model=ops_answers.ServiceStatus)},
        )

    @property
    def index(self) -> Operation:
        return self._operation(
            id="getService",
            summary="What the service is",
            answers={200: Answer(description="Its name and its endpoints.", model=ops_answers.ServiceIndex)},
        )

    @property
    def chat(self) -> Operation:
        streamed: dict[str, Any] = {"messages": _QUESTION}
        return self._operation(
            id="chat",
            summary="Chat in the short form",
            description="One of `message`, `prompt` and `messages`. With `messages` the answer is always a stream of "
            "OpenAI's events; with the others it is one JSON object, unless `stream` is true. With `prompt` the model "
            "does not think unless `enable_thinking` says so.",
            answers={
                200: Answer(
                    description="The answer, or the stream of its pieces.",
                    model=answers.SimpleAnswer,
                    events=answers.ChatCompletionChunk,
                    headers=_ABOUT_CHAT,
                )
            },
            body=ChatForm,
            examples={
                "a message": {"message": "Hello! Who are you?", "max_tokens": 100},
                "a prompt": {"prompt": "Hello!", "system_prompt": "Answer in Vietnamese.", "temperature": 0.3},
                "a stream": streamed,
            },
            errors=_TURN,
        )

    @property
    def chat_completions(self) -> Operation:
        plain = {"model": self.settings.model, "messages": _QUESTION, "max_tokens": 200}
        return self._operation(
            id="createChatCompletion",
            summary="OpenAI's chat completions",
            description="A conversation that is too long loses its oldest messages in the middle, which "
            "`x-context-truncated` counts. Where an engine fails, another one goes on; `x-engine` says who answered. "
            "Fields that are not listed are accepted and mean nothing.",
            answers={
                200: Answer(
                    description="The answer; with `stream`, its events.",
                    model=answers.ChatCompletion,
                    events=answers.ChatCompletionChunk,
                    headers=_ABOUT_CHAT,
                )
            },
            body=ChatCompletionRequest,
            examples={"an answer": plain, "a stream": {**plain, "stream": True}},
            errors=_TURN,
        )

    @property
    def completions(self) -> Operation:
        plain = {"model": self.settings.model, "prompt": "The capital of France is", "max_tokens": 16}
        return self._operation(
            id="createCompletion",
            summary="OpenAI's text completions",
            answers={
                200: Answer(
                    description="The text; with `stream`, its events.",
                    model=answers.TextCompletion,
                    events=answers.TextCompletion,
                    headers=_BY_WHOM,
                )
            },
            body=CompletionRequest,
            examples={"a text": plain},
            errors=_TURN,
        )

    @property
    def embeddings(self) -> Operation:
        return self._operation(
            id="createEmbedding",
            summary="OpenAI's embeddings",
            answers={200: Answer(description="The vectors.", model=answers.Embeddings, headers=_BY_WHOM)},
            body=EmbeddingRequest,
            examples={"two texts": {"model": self.settings.model, "input": ["fever", "sốt"]}},
            errors=_TURN,
        )

    @property
    def list_models(self) -> Operation:
        return self._operation(
            id="listModels",
            summary="The model of this service",
            answers={200: Answer(description="A list of one.", model=answers.ModelList)},
        )

    @property
    def show_model(self) -> Operation:
        return self._operation(
            id="getModel",
            summary="The model by one of its names",
            answers={200: Answer(description="The model.", model=answers.ModelCard)},
            errors=(ModelNotFound,),
            parameters={"id": "A name of the model; slashes are allowed."},
        )

    def _operation(self, **fields: Any) -> Operation:
        return Operation(tag=self.tag, mount=self.mount, **fields)
