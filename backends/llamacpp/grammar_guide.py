"""A grammar's guide: what its place in the grammar lets come next."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

from backends.llamacpp.guide import Float32Array, GuideError

_BANNED: Final = np.float32(-np.inf)

# A grammar can be made so ambiguous that every mask takes many milliseconds, which all answers in the batch wait for.
# That much of the thread's time is given at first, and for every token.
_ALLOWANCE_S: Final = 0.2
_ALLOWANCE_S_PER_TOKEN: Final = 0.003


class GrammarGuide:
    """A `Guide` that owns its place in a grammar. Raises `GuideError` where the grammar cannot be followed further."""

    def __init__(self, matcher: LLMatcher, n_vocab: int, pieces: Sequence[bytes]) -> None:
        self._matcher = matcher
        self._words: npt.NDArray[np.uint32] = np.zeros((n_vocab + 31) // 32, np.uint32)
        self._pieces = pieces
        self._due: list[int] = []
        self._left_s = _ALLOWANCE_S
        self.is_complete = False

    @property
    def is_idle(self) -> bool:
        return self.is_complete

    def can_begin(self) -> bool:
        """Whether any token may come at all, or the empty answer fits."""
        words = self._compute_words()
        return not self._matcher.is_error() and (bool(words.any()) or self._matcher.is_accepting())

    def forced(self) -> int | None:
        if not self._due and self._matcher.compute_ff_bytes():
            self._due = self._tokens_due()
        return self._due[0] if self._due else None

    def mask(self, logits: Float32Array) -> None:
        banned = np.unpackbits((~self._allowed_words()).view(np.uint8), count=logits.size, bitorder="little")
        np.copyto(logits, _BANNED, where=banned.view(np.bool_))

    def allows(self, tokens: list[int]) -> bool:
        """Whether these tokens may come next, one after another."""
        return self._matcher.validate_tokens(tokens) == len(tokens)

    def accept(self, token: int, piece: bytes) -> None:
        """Raises `GuideError` for a token that may not come here."""
        self._due = self._due[1:] if self._due[:1] == [token] else []
        if not self._matcher.consume_token(token):
            raise GuideError("the answer has left its grammar")
        self.is_complete = self._matcher.is_stopped()

    def _tokens_due(self) -> list[int]:
        """The model's own tokens of a text that has to come, without those that what follows might change."""
        due: list[int] = self._matcher.compute_ff_tokens()
        return due if self.allows(due) else []

    def _allowed_words(self) -> npt.NDArray[np.uint32]:
        """One bit a token, the lowest first; never none."""
        words = self._compute_words()
        if self._matcher.is_error():
            raise GuideError("the grammar is too complex to go on with")
        if self._left_s < 0:
            raise GuideError("the grammar takes too long to follow")
        return words

    def _compute_words(self) -> npt.NDArray[np.uint32]:
        words = self._words
        started_s = time.thread_time()
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        spent_s = time.thread_time() - started_s
        self._left_s = min(self._left_s + _ALLOWANCE_S_PER_TOKEN, _ALLOWANCE_S) - spent_s
        return words
