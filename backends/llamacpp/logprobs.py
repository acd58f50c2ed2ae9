"""How likely the model found a token: log-softmax of its own logits, before bias, penalties, temperature and guides."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backends.llamacpp.sampling import top_k_ids
from backends.llamacpp.sequence import Piece

Float32Array = npt.NDArray[np.float32]

LEAST_LOGPROB = -9999.0
"""What stands for minus infinity, which JSON has no word for; vLLM's value."""


@dataclass(frozen=True, slots=True)
class RatedToken:
    """`logprob` is None where nothing goes before the token. `top`: the likeliest (token, logprob), best first."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()
    is_thought: bool = False


def rate(logits: Float32Array, token: int, n_top: int, *, is_thought: bool = False) -> RatedToken:
    """`logits`: float32[n_vocab], overwritten."""
    ids = top_k_ids(logits, min(n_top, logits.size)) if n_top else np.empty(0, np.int64)
    values = logits[ids]
    chosen = float(logits[token])
    largest = logits.max()
    logits -= largest
    np.exp(logits, out=logits)
    log_total = float(largest) + math.log(float(logits.sum()))

    def logprob(logit: float) -> float:
        return max(logit - log_total, LEAST_LOGPROB)

    in_order = np.lexsort((ids, -values))
    top = tuple((int(ids[row]), logprob(float(values[row]))) for row in in_order)
    return RatedToken(token, logprob(chosen), top, is_thought)


def score(piece: Piece, logits: Float32Array, n_top: int) -> Iterator[RatedToken]:
    """Rate the prompt tokens that follow those of a piece, and note how far that is done.

    `logits`: float32[piece.n_outputs, n_vocab], of its last tokens. Nothing goes before a prompt's first token.
    """
    sequence, end = piece.sequence, piece.start + piece.n_tokens
    if sequence.score_from == 0:
        yield RatedToken(sequence.tokens[0], None)
    for row, of_one in enumerate(logits, start=end - len(logits)):
        if row + 1 < sequence.n_prompt_tokens and row >= (sequence.score_from or 0):
            yield rate(of_one.copy(), sequence.tokens[row + 1], n_top)
    sequence.score_from = max(end, sequence.score_from or 0) if end < sequence.n_prompt_tokens else None
