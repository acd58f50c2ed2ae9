"""The answers of an engine that tells everybody the same story: prepared bytes in vLLM's wire format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, cycle, islice
from typing import Any, Final

import orjson

MODEL: Final = "fake"
FIRST_WORD: Final = "Once"
_WORDS: Final = (FIRST_WORD, " upon", " a", " time", ",", " in", " some", " far", " off", " land")
N_PROMPT: Final = 20
LAST_BYTES: Final = b"0\r\n\r\n"
_COMMON: Final = {"id": "chatcmpl-fake", "created": 1, "model": MODEL}


def text(n_chunks: int) -> str:
    """What an answer of so many chunks says."""
    return "".join(islice(cycle(_WORDS), n_chunks))


class ChunkBook:
    """The bytes of one endpoint's events, framed for HTTP, made once."""

    def __init__(self, *, is_chat: bool) -> None:
        self._is_chat = is_chat
        self._head = [self._event({"role": "assistant", "content": ""})] if is_chat else []
        self._words = [self._event({"content": word}) for word in _WORDS]
        self._finish = self._event({"content": ""}, "length")
        self._done = _framed(b"data: [DONE]\n\n") + LAST_BYTES

    def chunks(self, n_chunks: int, *, with_usage: bool) -> Iterator[bytes]:
        usage = {**_COMMON, "object": self._object, "choices": [], "usage": _usage(n_chunks)}
        ending = [self._finish, *([_framed_event(usage)] if with_usage else []), self._done]
        return chain(self._head, islice(cycle(self._words), n_chunks), ending)

    @property
    def _object(self) -> str:
        return "chat.completion.chunk" if self._is_chat else "text_completion"

    def _event(self, delta: Mapping[str, str], finish_reason: str | None = None) -> bytes:
        said: dict[str, Any] = {"delta": delta} if self._is_chat else {"text": delta["content"]}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish_reason, "token_ids": None}
        return _framed_event({**_COMMON, "object": self._object, "choices": [choice]})


def whole_answer(n_chunks: int, *, is_chat: bool) -> bytes:
    said: dict[str, Any] = {"text": text(n_chunks)}
    if is_chat:
        said = {"message": {"role": "assistant", "content": text(n_chunks), "reasoning": None, "tool_calls": []}}
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": "length", "stop_reason": None}
    kind = "chat.completion" if is_chat else "text_completion"
    return orjson.dumps({**_COMMON, "object": kind, "choices": [choice], "usage": _usage(n_chunks)})


def _usage(n_chunks: int) -> dict[str, int]:
    return {"prompt_tokens": N_PROMPT, "completion_tokens": n_chunks, "total_tokens": N_PROMPT + n_chunks}


def _framed_event(event: Mapping[str, Any]) -> bytes:
    return _framed(b"data: " + orjson.dumps(event) + b"\n\n")


def _framed(data: bytes) -> bytes:
    """As one chunk of HTTP's chunked encoding."""
    return b"%x\r\n%b\r\n" % (len(data), data)
