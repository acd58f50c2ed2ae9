"""What answers hold, for their description. An answer may carry more than is said here, and never carries less."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Answered(BaseModel):
    """An object of which the named fields can be relied on."""

    model_config = ConfigDict(extra="allow")


class Error(Answered):
    message: str = Field(description="What is wrong, for a person.")
    type: str = Field(description="The kind of error, as OpenAI names it.")
    param: str | None = Field(description="The field of the request that is at fault.")
    code: str | None = Field(description="The error's name, for a program.")


class ErrorAnswer(Answered):
    """The one shape of all errors. In a stream that has begun it is the last event before `[DONE]`."""

    error: Error


class Usage(Answered):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class FunctionCall(Answered):
    name: str | None = None
    arguments: str | None = Field(None, description="JSON as the model wrote it.")


class ToolCall(Answered):
    id: str | None = None
    type: str | None = None
    function: FunctionCall


class AnswerMessage(Answered):
    role: str
    content: str | None = None
    reasoning_content: str | None = Field(None, description="What the model thought, where it reasons.")
    reasoning: str | None = Field(None, description="The same text in its newer spelling.")
    tool_calls: list[ToolCall] | None = None


class ChatChoice(Answered):
    index: int
    message: AnswerMessage
    finish_reason: str | None = Field(description="`stop`, `length` or `tool_calls`.")
    logprobs: dict[str, Any] | None = None


class ChatCompletion(Answered):
    id: str
    object: Literal["chat.completion"]
    created: int = Field(description="Seconds since 1970.")
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None


class Delta(Answered):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChunkChoice(Answered):
    index: int
    delta: Delta
    finish_reason: str | None = None


class ChatCompletionChunk(Answered):
    """One event of a stream: `data: {...}`. The stream ends with `data: [DONE]`."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice] = Field(description="Empty in the closing event of `stream_options.include_usage`.")
    usage: Usage | None = None


class TextChoice(Answered):
    index: int
    text: str
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class TextCompletion(Answered):
    """An answer, and each event of a stream, which ends with `data: [DONE]`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None


class SimpleAnswer(Answered):
    response: str = Field(description="The answer without its reasoning.")
    reasoning: str | None = Field(None, description="What the model thought, where it did.")
    model: str
    elapsed_time: str = Field(description="Seconds, as `3.12s`.")
    usage: Usage
    finish_reason: str | None = None


class Embedding(Answered):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="Numbers, or for `base64` their 32-bit floats.")


class EmbeddingsUsage(Answered):
    prompt_tokens: int
    total_tokens: int


class Embeddings(Answered):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


class ModelCard(Answered):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int = Field(description="Context of one request, tokens.")
    aliases: list[str] = Field(description="Other names that are accepted in `model`.")


class ModelList(Answered):
    object: Literal["list"]
    data: list[ModelCard]
