"""Guessing what comes next from what was there before: no model, only the tokens of one sequence.

Where the last few tokens occurred earlier, what followed them then is likely to follow again: a record that is copied
with one field changed, code that is edited, a list in one form. A guess costs nothing to make. Whether it came true is
noted even where nobody acted on it, so that a sequence's odds are known before anything is spent on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

NGRAM_SIZES: Final = (8, 4, 2)
"""How many last tokens are looked for, the longest first."""

MAX_TABLE_BITS: Final = 16
"""A table has at most so many bits of index: 256 KiB. In a longer text later places push out earlier ones."""

INDEXED_AT_ONCE: Final = 2048
"""Tokens that one look takes in, in about 0.2 ms: a long prompt is read over several steps."""

_MULTIPLIER: Final = 0x9E3779B97F4A7C15
_WORD: Final = (1 << 64) - 1

_FIRST_CHANCES: Final = {8: 0.8, 4: 0.5, 2: 0.25}
_FIRST_CHANCE_WEIGHT: Final = 2.0
_MEMORY: Final = 0.95


@dataclass(frozen=True, slots=True)
class Guess:
    """`tokens` followed when the last `n_matched` tokens were there before; empty when they were not."""

    tokens: list[int]
    n_matched: int


NO_GUESS: Final = Guess([], 0)


class NgramIndex:
    """Where each n-gram of a sequence was last followed by something.

    Tables of positions, found by a hash of the n-gram and checked against the tokens themselves: memory is bounded by
    the tables, and a hash that two n-grams share costs a guess, not its truth.
    """

    def __init__(self, n_tokens: int) -> None:
        """`n_tokens`: how long the sequence can become."""
        bits = min(MAX_TABLE_BITS, max(8, (2 * n_tokens).bit_length()))
        self._shift = 64 - bits
        self._tables = {size: np.zeros(1 << bits, np.int32) for size in NGRAM_SIZES}
        self._n_indexed = 0

    def look(self, tokens: list[int], n_most: int) -> Guess:
        """What followed the longest of the n-grams that `tokens` end with, at most `n_most` tokens of it.

        `tokens` are those of the last call and any number of new ones. Ids below 0 (places of an image) are not
        guessed.
        """
        self._take_in(tokens)
        for size, table in self._tables.items():
            if len(tokens) <= size:
                continue
            end = tokens[-size:]
            position = int(table[_hash(end) >> self._shift])
            if position >= size and tokens[position - size : position] == end:
                return Guess(_sayable(tokens[position : position + n_most]), size)
        return NO_GUESS

    def _take_in(self, tokens: list[int]) -> None:
        """Note of the next tokens what they follow."""
        first, last = self._n_indexed, min(len(tokens), self._n_indexed + INDEXED_AT_ONCE)
        if last - first > 8:
            self._take_in_many(tokens, first, last)
        else:
            for position in range(first, last):
                for size, table in self._tables.items():
                    if position >= size:
                        table[_hash(tokens[position - size : position]) >> self._shift] = position
        self._n_indexed = last

    def _take_in_many(self, tokens: list[int], first: int, last: int) -> None:
        for size, table in self._tables.items():
            start = max(first, size)
            if start >= last:
                continue
            words = np.array(tokens[start - size : last - 1], np.int64).astype(np.uint64)
            n_grams = last - start
            hashes = np.zeros(n_grams, np.uint64)
            for offset in range(size):
                hashes = (hashes + words[offset : offset + n_grams]) * np.uint64(_MULTIPLIER)
            rows = (hashes >> np.uint64(self._shift)).astype(np.int64)
            np.maximum.at(table, rows, np.arange(start, last, dtype=np.int32))


def _hash(ngram: Sequence[int]) -> int:
    value = 0
    for token in ngram:
        value = (value + token) * _MULTIPLIER & _WORD
    return value


def _sayable(tokens: list[int]) -> list[int]:
    return next((tokens[:i] for i, token in enumerate(tokens) if token < 0), tokens)


class Odds:
    """How often guesses came true lately, by how many tokens had matched: the more, the likelier."""

    def __init__(self) -> None:
        self._n_true = {size: _FIRST_CHANCES[size] * _FIRST_CHANCE_WEIGHT for size in NGRAM_SIZES}
        self._n_made = dict.fromkeys(NGRAM_SIZES, _FIRST_CHANCE_WEIGHT)

    def chances(self, guess: Guess) -> list[float]:
        """For each token of a guess the chance that it comes, and all before it."""
        chances, chance = [], 1.0
        for n_matched in range(guess.n_matched, guess.n_matched + len(guess.tokens)):
            size = _size_matched(n_matched)
            chance *= self._n_true[size] / self._n_made[size]
            chances.append(chance)
        return chances

    def learn(self, guess: Guess, came: list[int]) -> None:
        """`came`: the tokens that came in place of the guessed ones; how it went on after a false one tells nothing."""
        for n_more, (guessed, token) in enumerate(zip(guess.tokens, came, strict=False)):
            size = _size_matched(guess.n_matched + n_more)
            self._n_true[size] = _MEMORY * self._n_true[size] + (guessed == token)
            self._n_made[size] = _MEMORY * self._n_made[size] + 1
            if guessed != token:
                return


def _size_matched(n_matched: int) -> int:
    return next(size for size in NGRAM_SIZES if size <= n_matched)
