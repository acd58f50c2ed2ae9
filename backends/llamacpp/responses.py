"""The OpenAI shapes of what was generated: whole answers, and server-sent events that are bytes from the start."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from backends.llamacpp.logprob_shapes import joined
from backends.llamacpp.reasoning import Channel
from backends.llamacpp.tools.calls import CallDelta

DONE: Final = b"data: [DONE]\n\n"

Logprobs = dict[str, Any]
Piece = tuple[Channel, str | CallDelta]
"""Part of an answer: text of a channel, or of a call."""


def event(payload: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    n_prompt_tokens: int
    n_completion_tokens: int
    n_cached_tokens: int
    n_reasoning_tokens: int | None = None

    def as_json(self) -> dict[str, Any]:
        details = {"reasoning_tokens": self.n_reasoning_tokens}
        return {
            "prompt_tokens": self.n_prompt_tokens,
            "completion_tokens": self.n_completion_tokens,
            "total_tokens": self.n_prompt_tokens + self.n_completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.n_cached_tokens},
            **({"completion_tokens_details": details} if self.n_reasoning_tokens is not None else {}),
        }


@dataclass(slots=True)
class Whole:
    """An answer put together from its pieces."""

    texts: dict[Channel, str] = field(default_factory=dict)
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[Logprobs] = field(default_factory=list)

    @property
    def all_logprobs(self) -> Logprobs | None:
        return joined(self.logprobs)

    def add(self, channel: Channel, said: str | CallDelta) -> None:
        if isinstance(said, str):
            self.texts[channel] = self.texts.get(channel, "") + said
        elif said.name is not None:
            function = {"name": said.name, "arguments": said.arguments}
            self.calls.append({"id": said.id, "type": "function", "function": function})
        else:
            self.calls[said.index]["function"]["arguments"] += said.arguments


@dataclass(slots=True)
class ChatShape:
    """Chat completions of one request."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def opening(self, index: int) -> bytes:
        return self._chunk([_chat_choice(index, {"role": "assistant", "content": ""})])

    def piece(self, index: int, channel: Channel, said: str | CallDelta, logprobs: Logprobs | None = None) -> bytes:
        delta: dict[str, Any]
        match channel:
            case Channel.CONTENT:
                delta = {"content": said} if said else {}
            case Channel.REASONING:
                delta = {"reasoning_content": said, "reasoning": said}
            case Channel.CALLS:
                delta = {"tool_calls": [_call_delta(said)]} if isinstance(said, CallDelta) else {}
        return self._chunk([_chat_choice(index, delta, logprobs)])

    def closing(self, index: int, finish_reason: str, logprobs: Logprobs | None = None) -> bytes:
        return self._chunk([_chat_choice(index, {}, logprobs, finish_reason)])

    def usage(self, usage: Usage) -> bytes:
        return event({**self._head("chat.completion.chunk"), "choices": [], "usage": usage.as_json()})

    def whole(self, answers: list[Whole], finish_reasons: list[str], usage: Usage) -> dict[str, Any]:
        choices = [
            {"index": i, "message": _message(answer), "logprobs": answer.all_logprobs, "finish_reason": reason}
            for i, (answer, reason) in enumerate(zip(answers, finish_reasons, strict=True))
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": usage.as_json()}

    def _chunk(self, choices: list[dict[str, Any]]) -> bytes:
        return event({**self._head("chat.completion.chunk"), "choices": choices})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


@dataclass(slots=True)
class TextShape:
    """Text completions of one request."""

    model: str
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def opening(self, index: int) -> bytes:
        return b""

    def piece(self, index: int, channel: Channel, said: str | CallDelta, logprobs: Logprobs | None = None) -> bytes:
        return event({**self._head(), "choices": [_text_choice(index, str(said), logprobs, None)]})

    def closing(self, index: int, finish_reason: str, logprobs: Logprobs | None = None) -> bytes:
        return event({**self._head(), "choices": [_text_choice(index, "", logprobs, finish_reason)]})

    def usage(self, usage: Usage) -> bytes:
        return event({**self._head(), "choices": [], "usage": usage.as_json()})

    def whole(self, answers: list[Whole], finish_reasons: list[str], usage: Usage) -> dict[str, Any]:
        choices = [
            _text_choice(i, answer.texts.get(Channel.CONTENT, ""), answer.all_logprobs, reason)
            for i, (answer, reason) in enumerate(zip(answers, finish_reasons, strict=True))
        ]
        return {**self._head(), "choices": choices, "usage": usage.as_json()}

    def _head(self) -> dict[str, Any]:
        return {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}


Shape = ChatShape | TextShape


def _chat_choice(
    index: int, delta: dict[str, Any], logprobs: Logprobs | None = None, finish_reason: str | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def _text_choice(index: int, text: str, logprobs: Logprobs | None, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _message(answer: Whole) -> dict[str, Any]:
    content = answer.texts.get(Channel.CONTENT, "")
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if reasoning := answer.texts.get(Channel.REASONING):
        message["reasoning_content"] = message["reasoning"] = reasoning
    if answer.calls:
        message |= {"content": content or None, "tool_calls": answer.calls}
    return message


def _call_delta(said: CallDelta) -> dict[str, Any]:
    """The first of a call tells all but its arguments, the others nothing but those."""
    if said.name is None:
        return {"index": said.index, "function": {"arguments": said.arguments}}
    function = {"name": said.name, "arguments": said.arguments}
    return {"index": said.index, "id": said.id, "type": "function", "function": function}
