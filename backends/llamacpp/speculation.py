"""Which guesses are computed along with the next tokens: as many as are expected to pay for themselves.

A guessed token is one more row of a step. Where it comes true, the step has said one token more; where it does not,
the row was for nothing. What a row costs is measured: little while a step waits for memory, nearly as much as a token
once it computes all the time, as on a processor or in a full batch. So guesses are taken in the order of their chances
for as long as they raise the tokens per second of everybody together, and none where that gains too little.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from backends.llamacpp.lookup import NO_GUESS, Guess, NgramIndex, Odds

MAX_DRAFT_TOKENS: Final = 15
"""Of one sequence in one step: with the token that is certain, a round sixteen rows."""

MAX_DRAFT_BYTES: Final = 64 << 20
"""Room for the logits of guesses, of all sequences together: sixty-four rows of the largest vocabularies."""

MIN_GAIN: Final = 1.05
"""Tokens per second with guesses, to those without, from which on they are worth it."""

LIKELY: Final = 0.75
"""A chance at which only the cost can be what speaks against a guess."""

_NEW_WEIGHT: Final = 0.2
_FIRST_COST: Final = 0.25
_HOPE: Final = 0.98


def max_draft_rows(*, n_parallel: int, n_batch: int, n_vocab: int) -> int:
    """How many guessed tokens a step may hold."""
    by_memory = MAX_DRAFT_BYTES // (4 * n_vocab)
    return max(0, min(n_parallel * MAX_DRAFT_TOKENS, by_memory, n_batch - n_parallel))


class Drafter:
    """What one sequence guesses of its own next tokens. Reads its text the first time it is asked, not before."""

    def __init__(self, n_tokens: int) -> None:
        """`n_tokens`: how long the sequence can become."""
        self._n_tokens = n_tokens
        self._index: NgramIndex | None = None
        self._odds = Odds()
        self._guess: Guess = NO_GUESS

    def guess(self, tokens: list[int], n_most: int) -> list[float]:
        """Chances of the tokens that may come next, each that of it and all before it."""
        if self._index is None:
            self._index = NgramIndex(self._n_tokens)
        self._guess = self._index.look(tokens, n_most)
        return self._odds.chances(self._guess)

    def draft(self, n_tokens: int) -> list[int]:
        """The first tokens of the last guess."""
        return self._guess.tokens[:n_tokens]

    def learn(self, came: list[int]) -> None:
        """`came`: what came in place of the last guess, whether it was computed or not."""
        self._odds.learn(self._guess, came)
        self._guess = NO_GUESS


@dataclass(slots=True)
class StepCost:
    """Seconds of a step that computes one token for each of n sequences, and of each guess added to it.

    Until it is measured a guess is taken to cost a quarter of a token. One that was found too dear becomes cheaper by
    and by while it is in the way of likely guesses, and so is measured again: a machine that was busy once does not
    end all guessing.
    """

    _plain_s: dict[int, float] = field(default_factory=dict)
    _draft_s: float | None = None

    def learn(self, n_sequences: int, n_drafted: int, elapsed_s: float) -> None:
        """Of a step without pieces of prompts. One that took much longer than known is taken for less."""
        plain_s = self._plain_s.get(n_sequences)
        if not n_drafted:
            seen = elapsed_s if plain_s is None else min(elapsed_s, 2 * plain_s)
            self._plain_s[n_sequences] = _mixed(plain_s, seen)
        elif plain_s is not None:
            seen = min(max(elapsed_s - plain_s, 0.0) / n_drafted, 2 * plain_s / n_sequences)
            self._draft_s = _mixed(self._draft_s, seen)

    def allot(self, n_sequences: int, chances: list[list[float]], n_rows: int) -> list[int]:
        """How many of its guesses each sequence computes; `chances` of each fall, `n_rows` is the most of all."""
        counts = [0] * len(chances)
        plain_s = self._plain_s.get(n_sequences)
        if plain_s is None:
            return counts
        first_s = _FIRST_COST * plain_s / n_sequences
        draft_s = first_s if self._draft_s is None else self._draft_s
        n_tokens, step_s = float(n_sequences), plain_s
        for chance, i in _by_chance(chances)[:n_rows]:
            if chance * step_s <= draft_s * n_tokens:
                break
            n_tokens, step_s = n_tokens + chance, step_s + draft_s
            counts[i] += 1
        if n_tokens * plain_s >= MIN_GAIN * n_sequences * step_s:
            return counts
        if draft_s > first_s and any(own and own[0] >= LIKELY for own in chances):
            self._draft_s = _HOPE * draft_s
        return [0] * len(chances)


def _by_chance(chances: Iterable[list[float]]) -> list[tuple[float, int]]:
    """(chance, whose guess), the likeliest first. A sequence's own stay in order, for its chances fall."""
    return sorted(((chance, i) for i, own in enumerate(chances) for chance in own), key=lambda c: c[0], reverse=True)


def _mixed(known: float | None, seen: float) -> float:
    return seen if known is None else (1 - _NEW_WEIGHT) * known + _NEW_WEIGHT * seen
