"""What a text of the worker's is held against: llama.cpp's own Python class, asked for one position at a time.

Kernels differ a little in what they compute (how many rows at once, flash attention or not: logits move by up to 0.4),
and where the two best tokens are nearly equal the choice may then fall either way. Each such place is looked up: the
worker's token must be the second best there, and short of the best by no more than `MAX_TIE_GAP`. Seen were none with
flash attention on both sides, and seven of 384 tokens, 0.01 to 0.18 apart, against a reference without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt

from tests.backends.llamacpp.worker import MODEL

MAX_TIE_GAP = 0.3


class _DeadEnd(Exception):
    """`places`: those on the way, by number of tokens, where another turn is left, and which."""

    def __init__(self, message: str, places: dict[int, int]) -> None:
        super().__init__(message)
        self.places = places


@dataclass(frozen=True, slots=True)
class Reference:
    """`llama_cpp.Llama`, asked for one position at a time."""

    llama: llama_cpp.Llama

    def tokens(self, prompt: str) -> list[int]:
        found: list[int] = self.llama.tokenize(prompt.encode(), add_bos=False, special=True)
        return found

    def piece(self, token: int) -> bytes:
        raw: bytes = self.llama.detokenize([token])
        return raw

    def is_end(self, token: int) -> bool:
        vocab = llama_cpp.llama_model_get_vocab(self.llama.model)
        return bool(llama_cpp.llama_vocab_is_eog(vocab, token))

    def logits(self) -> npt.NDArray[np.float32]:
        """Of the token that was evaluated last."""
        row = llama_cpp.llama_get_logits_ith(self.llama.ctx, -1)
        return np.array(np.ctypeslib.as_array(row, (self.llama.n_vocab(),)))

    def gaps_on_the_way(
        self, prompt: str, text: str, n_tokens: int | None = None, *, n_considered: int = 2
    ) -> list[float]:
        """Walk along `text`; how much worse than the best each token is that is not the best itself.

        `n_tokens` is its length; None where that is not known, the text ends with a whole token, and ends of text
        were ignored. A token has to be one of the `n_considered` best. Where the text goes on with several of them
        (" n" and " number"), the better is tried first.
        """
        turns: dict[int, int] = {}
        while True:
            try:
                return self._walk(prompt, text, n_tokens, n_considered, turns)
            except _DeadEnd as end:
                if not end.places:
                    raise AssertionError(str(end)) from end
                place = max(end.places)
                turns = {other: turn for other, turn in turns.items() if other < place}
                turns[place] = end.places[place]

    def _walk(
        self, prompt: str, text: str, n_tokens: int | None, n_considered: int, turns: dict[int, int]
    ) -> list[float]:
        """`turns`: by number of tokens, which of those that go on with the text to take where it is not the first."""
        ends = [token for token in range(self.llama.n_vocab()) if self.is_end(token)] if n_tokens is None else []
        self.llama.reset()
        self.llama.eval(self.tokens(prompt))
        rest, gaps, n_seen, open_turns = text.encode(), list[float](), 0, dict[int, int]()
        while rest if n_tokens is None else n_seen < n_tokens:
            logits = self.logits()
            logits[ends] = -np.inf
            ranked = [int(token) for token in np.argsort(logits)[: -n_considered - 1 : -1]]
            fitting = [token for token in ranked if self.goes_on(rest, token)]
            turn = turns.get(n_seen, 0)
            if turn + 1 < len(fitting):
                open_turns[n_seen] = turn + 1
            if not fitting:
                told = [(self.piece(token), float(logits[token])) for token in ranked]
                raise _DeadEnd(f"{rest!r} begins with none of {told}", open_turns)
            token = fitting[turn]
            if token != ranked[0]:
                gaps.append(float(logits[ranked[0]] - logits[token]))
            if self.is_end(token):
                break
            n_seen += 1
            rest = rest[len(self.piece(token)) :]
            self.llama.eval([token])
        assert len(rest) <= 3, "only a character that was never finished may be left"
        return gaps

    def misses_on_the_way(self, prompt: str, pieces: list[str], *, temperature: float, seed: int) -> list[float]:
        """Walk along a text that was drawn; by how much of the probability each token's share missed the draw.

        `pieces` are its tokens, where ends of text were ignored.
        """
        draws = np.random.Generator(np.random.PCG64(seed))
        ends = [token for token in range(self.llama.n_vocab()) if self.is_end(token)]
        self.llama.reset()
        self.llama.eval(self.tokens(prompt))
        misses = []
        for point, piece in zip(draws.random(len(pieces)), pieces, strict=True):
            logits = self.logits().astype(np.float64)
            logits[ends] = -np.inf
            weights = np.exp((logits - logits.max()) / temperature)
            ends_at = np.cumsum(weights) / weights.sum()
            missed = np.maximum(np.maximum(ends_at - weights / weights.sum() - point, point - ends_at), 0)
            token = next(int(token) for token in np.argsort(missed) if self.piece(int(token)) == piece.encode())
            misses.append(float(missed[token]))
            self.llama.eval([token])
        return misses

    def goes_on(self, rest: bytes, token: int) -> bool:
        """Whether `rest` goes on with `token`. At its very end a part of a character is not shown."""
        piece = self.piece(token)
        if not rest:
            return piece.decode("utf-8", "ignore") == ""
        return rest.startswith(piece)


@contextmanager
def open_reference(n_ctx: int = 256, *, model: Path = MODEL) -> Iterator[Reference]:
    llama = llama_cpp.Llama(
        str(model), n_ctx=n_ctx, n_batch=128, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False
    )
    try:
        yield Reference(llama)
    finally:
        llama.close()
