"""The OpenAI shapes of what was generated: whole answers, and server-sent events that are bytes from the start."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from backends.llamacpp.reasoning import Channel

DONE: Final = b"data: [DONE]\n\n"

Logprobs = dict[str, Any]


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
class ChatShape:
    """Chat completions of one request."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def opening(self, index: int) -> bytes:
        return self._chunk([_chat_choice(index, {"role": "assistant", "content": ""})])

    def piece(self, index: int, channel: Channel, text: str, logprobs: Logprobs | None = None) -> bytes:
        delta = {"content": text} if channel is Channel.CONTENT else {"reasoning_content": text, "reasoning": text}
        return self._chunk([_chat_choice(index, delta if text else {}, logprobs)])

    def closing(self, index: int, finish_reason: str, logprobs: Logprobs | None = None) -> bytes:
        return self._chunk([_chat_choice(index, {}, logprobs, finish_reason)])

    def usage(self, usage: Usage) -> bytes:
        return event({**self._head("chat.completion.chunk"), "choices": [], "usage": usage.as_json()})

    def whole(
        self,
        texts: list[dict[Channel, str]],
        logprobs: list[Logprobs | None],
        finish_reasons: list[str],
        usage: Usage,
    ) -> dict[str, Any]:
        choices = [
            {"index": i, "message": _message(text), "logprobs": rated, "finish_reason": reason}
            for i, (text, rated, reason) in enumerate(zip(texts, logprobs, finish_reasons, strict=True))
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

    def piece(self, index: int, channel: Channel, text: str, logprobs: Logprobs | None = None) -> bytes:
        return event({**self._head(), "choices": [_text_choice(index, text, logprobs, None)]})

    def closing(self, index: int, finish_reason: str, logprobs: Logprobs | None = None) -> bytes:
        return event({**self._head(), "choices": [_text_choice(index, "", logprobs, finish_reason)]})

    def usage(self, usage: Usage) -> bytes:
        return event({**self._head(), "choices": [], "usage": usage.as_json()})

    def whole(
        self,
        texts: list[dict[Channel, str]],
        logprobs: list[Logprobs | None],
        finish_reasons: list[str],
        usage: Usage,
    ) -> dict[str, Any]:
        choices = [
            _text_choice(i, text.get(Channel.CONTENT, ""), rated, reason)
            for i, (text, rated, reason) in enumerate(zip(texts, logprobs, finish_reasons, strict=True))
        ]
        return {**self._head(), "choices": choices, "usage": usage.as_json()}

    def _head(self) -> dict[str, Any]:
        return {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}


Shape = ChatShape | TextShape


def _chat_choice(
    index: int, delta: dict[str, str], logprobs: Logprobs | None = None, finish_reason: str | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def _text_choice(index: int, text: str, logprobs: Logprobs | None, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _message(text: dict[Channel, str]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text.get(Channel.CONTENT, "")}
    if reasoning := text.get(Channel.REASONING):
        message["reasoning_content"] = message["reasoning"] = reasoning
    return message
