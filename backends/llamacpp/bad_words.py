"""Words that must not be said: the token that would finish one is kept out (as in vLLM)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from backends.llamacpp.guide import MakeGuide
from backends.llamacpp.native import Model
from backends.llamacpp.requests import ApiError
from backends.openai_schema import GenerationRequest

MAX_BAD_WORDS: Final = 1000

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

_BANNED = np.float32(-np.inf)


async def guides(request: GenerationRequest, model: Model) -> tuple[MakeGuide, ...]:
    """Raises `ApiError`."""
    words = request.bad_words or []
    if not all(words):
        raise ApiError(400, "bad_words holds an empty word", code="invalid_value", param="bad_words")
    if len(words) > MAX_BAD_WORDS:
        raise ApiError(400, f"bad_words are at most {MAX_BAD_WORDS}", code="invalid_value", param="bad_words")
    if not words:
        return ()
    return (partial(BadWords, await asyncio.to_thread(bad_sequences, words, model.tokenize)),)


def bad_sequences(words: Iterable[str], tokenize: Callable[[str], list[int]]) -> tuple[tuple[int, ...], ...]:
    """Tokens of each word, at the beginning of a text and after a blank."""
    spellings = (spelling for word in words for spelling in (word, " " + word.lstrip()))
    return tuple(dict.fromkeys(tokens for spelling in spellings if (tokens := tuple(tokenize(spelling)))))


class BadWords:
    """A guide. What a step costs does not grow with the number of words, but with how many may be finished now."""

    is_complete = False

    def __init__(self, sequences: Iterable[tuple[int, ...]]) -> None:
        self._sequences = tuple(sequences)
        self._single = np.array([tokens[0] for tokens in self._sequences if len(tokens) == 1], np.int64)
        self._by_last_but_one: dict[int, list[tuple[int, ...]]] = {}
        for tokens in self._sequences:
            if len(tokens) > 1:
                self._by_last_but_one.setdefault(tokens[-2], []).append(tokens)
        self._longest = max(map(len, self._sequences), default=0)
        self._said: list[int] = []

    @property
    def is_idle(self) -> bool:
        return not self._single.size and (not self._said or self._said[-1] not in self._by_last_but_one)

    def forced(self) -> int | None:
        return None

    def mask(self, logits: Float32Array) -> None:
        logits[self._single] = _BANNED
        if not self._said:
            return
        for tokens in self._by_last_but_one.get(self._said[-1], ()):
            begun = tokens[:-1]
            if tuple(self._said[-len(begun) :]) == begun:
                logits[tokens[-1]] = _BANNED

    def accept(self, token: int, piece: bytes) -> None:
        self._said.append(token)
        if len(self._said) > 2 * self._longest + 16:
            del self._said[: -self._longest]
