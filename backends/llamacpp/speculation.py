"""Which guesses are computed along with the next tokens: as many as are expected to pay for themselves.

A guessed token is one more row of a step. Where it comes true, the step has said one token more; where it does not,
the row was for nothing. What a row costs is measured: little while a step waits for memory, nearly as much as a token
once it computes all the time, as on a processor or in a full batch. So guesses are taken in the order of their chances
for as long as they raise the tokens per second of everybody together, and none where that gains too little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from backends.llamacpp.lookup import NO_GUESS, Guess, NgramIndex, Odds
from backends.llamacpp.sequence import Sequence

MAX_DRAFT_TOKENS: Final = 15
"""Of one sequence in one step: with the token that is certain, a round sixteen rows."""

MAX_DRAFT_BYTES: Final = 64 << 20
"""Room for the logits of guesses, of all sequences together: sixty-four rows of the largest vocabularies."""

MIN_GAIN: Final = 1.05
"""Tokens per second with guesses, to those without, from which on they are worth it."""

MIN_CHANCE: Final = 0.1
LIKELY: Final = 0.75
"""A chance at which only the cost can be what speaks against a guess."""

_LESS_WEIGHT: Final = 0.3
_MORE_WEIGHT: Final = 0.05
_FIRST_COST: Final = 0.25
_HOPE: Final = 0.98
_ANY: Final = 0  # sequences


def max_draft_rows(*, n_parallel: int, n_batch: int, n_vocab: int) -> int:
    """How many guessed tokens a step may hold."""
    by_memory = MAX_DRAFT_BYTES // (4 * n_vocab)
    return max(0, min(n_parallel * MAX_DRAFT_TOKENS, by_memory, (n_batch - n_parallel) // 2))


class Drafter:
    """What one sequence guesses of its own next tokens. Its text is read when it is first asked, not before."""

    def __init__(self, n_tokens: int) -> None:
        """`n_tokens`: how long the sequence can become."""
        self._n_tokens = n_tokens
        self._n_seen = 0
        self._index: NgramIndex | None = None
        self._odds = Odds()
        self._guess: Guess = NO_GUESS

    def guess(self, tokens: list[int], n_most: int) -> list[float]:
        """Chances of the tokens that may come next, each that of it and all before it.

        `tokens` are those of the last call and those that came since: they tell whether that guess was true, no
        matter whether any of it was computed.
        """
        if self._index is None:
            self._index = NgramIndex(self._n_tokens)
        self._odds.learn(self._guess, tokens[self._n_seen :])
        self._n_seen = len(tokens)
        self._guess = self._index.look(tokens, n_most)
        return self._odds.chances(self._guess)

    def draft(self, n_tokens: int) -> list[int]:
        """The first tokens of the last guess."""
        return self._guess.tokens[:n_tokens]


@dataclass(slots=True)
class StepCost:
    """Seconds of a step that computes one token for each of n sequences, and of each guess added to such a step.

    A guess costs another time when there are few and when there are many: kernels change with the number of rows. So
    it is known apart for each power of two, by number of sequences, or by any number where that was not seen yet.
    What is known is nearer to the shortest than to the mean: others may hold a step up, nobody makes it shorter.

    Until it is measured a guess is taken to cost a quarter of a token. One that was found too dear becomes cheaper by
    and by while it is in the way of likely guesses, and so is measured again: a machine that was busy once does not
    end all guessing.
    """

    _plain_s: dict[int, float] = field(default_factory=dict)
    _draft_s: dict[tuple[int, int], float] = field(default_factory=dict)

    def learn(self, n_sequences: int, n_drafted: int, elapsed_s: float) -> None:
        """Of a step without pieces of prompts. One that took much longer than known is taken for less."""
        plain_s = self._plain_s.get(n_sequences)
        if not n_drafted:
            seen = elapsed_s if plain_s is None else min(elapsed_s, 2 * plain_s)
            self._plain_s[n_sequences] = _mixed(plain_s, seen)
        elif plain_s is not None:
            seen = min(max(elapsed_s - plain_s, 0.0) / n_drafted, 2 * plain_s / n_sequences)
            for key in ((n_sequences, n_drafted.bit_length()), (_ANY, n_drafted.bit_length())):
                self._draft_s[key] = _mixed(self._draft_s.get(key), seen)

    def allot(self, n_sequences: int, chances: list[list[float]], n_rows: int) -> list[int]:
        """How many of its guesses each sequence computes; `chances` of each fall, `n_rows` is the most of all."""
        plain_s = self._plain_s.get(n_sequences)
        likeliest = _by_chance(chances)[:n_rows]
        if plain_s is None or not likeliest:
            return [0] * len(chances)
        costs = self._costs(n_sequences, plain_s, len(likeliest))
        n_tokens, best, n_best = float(n_sequences), MIN_GAIN * n_sequences / plain_s, 0
        for n_drafted, (chance, _) in enumerate(likeliest, 1):
            n_tokens += chance
            rate = n_tokens / (plain_s + costs[n_drafted.bit_length()] * n_drafted)
            if rate >= best:
                best, n_best = rate, n_drafted
        if not n_best and likeliest[0][0] >= LIKELY:
            self._hope(n_sequences, costs)
        chosen = Counter(i for _, i in likeliest[:n_best])
        return [chosen[i] for i in range(len(chances))]

    def _costs(self, n_sequences: int, plain_s: float, n_most: int) -> list[float]:
        """Of one guess, by the number of bits of how many there are."""
        first_s = _FIRST_COST * plain_s / n_sequences
        known = self._draft_s
        sizes = range(n_most.bit_length() + 1)
        return [known.get((n_sequences, size), known.get((_ANY, size), first_s)) for size in sizes]

    def _hope(self, n_sequences: int, costs: list[float]) -> None:
        for size in range(1, len(costs)):
            self._draft_s[n_sequences, size] = _HOPE * costs[size]


def _by_chance(chances: Iterable[list[float]]) -> list[tuple[float, int]]:
    """(chance, whose guess), the likeliest first. A sequence's own stay in order, for its chances fall."""
    worthy = [(chance, i) for i, own in enumerate(chances) for chance in own if chance >= MIN_CHANCE]
    return sorted(worthy, key=lambda one: one[0], reverse=True)


def _mixed(known: float | None, seen: float) -> float:
    if known is None:
        return seen
    return known + (seen - known) * (_LESS_WEIGHT if seen < known else _MORE_WEIGHT)


def levelled(counts: list[int]) -> list[int]:
    """The same number for all who have so many, none for the others: the number with which most are left.

    Where each sequence has a stream of its own, llama.cpp computes a batch in as many passes as there are different
    numbers of rows.
    """
    level = max(set(counts), key=lambda count: (count * sum(other >= count for other in counts), count), default=0)
    return [level if count >= level else 0 for count in counts]


@dataclass(slots=True)
class Speculation:
    """The guesses of all sequences of one context, on the step thread.

    `max_rows`: guesses in one step. `n_ctx`: how long a sequence can become. `shares_cells`: one pool for all
    sequences, else a stream for each.
    """

    max_rows: int
    n_ctx: int
    shares_cells: bool
    cost: StepCost = field(default_factory=StepCost)
    _drafters: dict[Sequence, Drafter] = field(default_factory=dict)

    def drafts(self, sequences: Iterable[Sequence], n_decoding: int) -> dict[Sequence, list[int]]:
        """What to compute behind the next token of `sequences`, who are some of the `n_decoding` that are answering."""
        known = self._drafters
        self._drafters = {one: known.get(one) or Drafter(self._n_tokens(one)) for one in sequences}
        chances = [drafter.guess(one.tokens, self._n_most(one)) for one, drafter in self._drafters.items()]
        if not any(chances):
            return {}
        counts = self.cost.allot(n_decoding, chances, self.max_rows)
        if not self.shares_cells:
            counts = levelled(counts)
        return {
            one: drafter.draft(count)
            for (one, drafter), count in zip(self._drafters.items(), counts, strict=True)
            if count > 0
        }

    def _n_tokens(self, sequence: Sequence) -> int:
        return min(self.n_ctx, sequence.n_prompt_tokens + sequence.n_repeated_tokens + sequence.max_tokens)

    def _n_most(self, sequence: Sequence) -> int:
        """A guess of the very last token would save nothing: its step is computed for the one before it."""
        return max(0, min(MAX_DRAFT_TOKENS, self._n_tokens(sequence) - len(sequence.tokens) - 1))
