"""Choosing the next token, in numpy on llama.cpp's own logits buffer.

The order is vLLM's (`vllm/v1/sample/sampler.py`), so that both engines mean the same by the same request: logit bias,
penalties, temperature, min-p, top-k, top-p. Costs that matter are in the row of a plain greedy batch (one `argmax`)
and in never sorting a whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from backends.llamacpp.guide import Guide, GuideError
from backends.llamacpp.healing import Seam

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

_COLUMN_HEIGHT = 64
_BANNED = np.float32(-np.inf)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """What a request asks for. `top_k` 0 keeps all; `seed` None draws one from the system."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: frozenset[int] = frozenset()


class Sampler:
    """Sampling state of one sequence: its random stream and what it has said so far.

    The random stream is the sequence's own and moves by one draw a token, so that a seed gives the same text whoever
    else is in the batch. `said_tokens` follow the prompt: for the penalties, this sequence has generated them.
    While there is a `seam`, only tokens that it allows come, and they are none of those that `min_tokens` asks for.
    `guides` have the last word after it; an end that one of them brings about goes before `min_tokens`. Where they
    leave only what the request has banned, it comes nevertheless. `failure` says why they cannot go on: the token that
    came then means nothing.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt_tokens: Iterable[int],
        eog_tokens: frozenset[int],
        *,
        said_tokens: Iterable[int] = (),
        seam: Seam | None = None,
        guides: Sequence[Guide] = (),
    ) -> None:
        self.params = params
        seed = None if params.seed is None else params.seed % (1 << 64)
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._eog = np.fromiter(sorted(eog_tokens), np.int64)
        self._ends = np.fromiter(sorted(eog_tokens | params.stop_token_ids), np.int64)
        self._n_generated = 0
        self._bias_ids = np.fromiter(params.logit_bias.keys(), np.int64)
        self._bias = np.fromiter(params.logit_bias.values(), np.float32)
        penalised = params.repetition_penalty != 1.0 or params.presence_penalty or params.frequency_penalty
        self._seen = _SeenTokens(prompt_tokens if params.repetition_penalty != 1.0 else ()) if penalised else None
        if self._seen is not None:
            for token in said_tokens:
                self._seen.count(token)
        self._takes_largest = params.temperature == 0 and self._seen is None and not self._bias_ids.size
        self.seam = seam
        self._guides = tuple(guides)
        self.failure: str | None = None

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the next token is just the largest logit."""
        is_free = self.seam is None and not self._eog_is_banned
        return self._takes_largest and is_free and all(guide.is_idle for guide in self._guides)

    @property
    def is_complete(self) -> bool:
        """Whether a guide has the whole answer."""
        return any(guide.is_complete for guide in self._guides)

    @property
    def _eog_is_banned(self) -> bool:
        return self.params.ignore_eos or self._is_too_short

    @property
    def _is_too_short(self) -> bool:
        return self._n_generated < self.params.min_tokens

    def sample(self, logits: Float32Array) -> int:
        """The next token from `logits`: float32[n_vocab], which may be written to."""
        if self._eog_is_banned:
            logits[self._ends if self._is_too_short else self._eog] = _BANNED
        if self._bias_ids.size:
            logits[self._bias_ids] += self._bias
        if self._seen is not None:
            self._seen.penalise(logits, self.params)
        if self.seam is not None:
            allowed = self.seam.allowed()
            return int(allowed[self._choose(logits[allowed])])
        if self._guides:
            try:
                return self._guided(logits)
            except GuideError as error:
                self.failure = str(error)
                return 0
        return self._choose(logits)

    def accept(self, token: int, piece: bytes = b"") -> None:
        """`token` was chosen; `piece` are the bytes that it adds to the answer."""
        if self.seam is None:
            self._n_generated += 1
            self._tell_guides(token, piece)
        if self._seen is not None:
            self._seen.count(token)

    def _guided(self, logits: Float32Array) -> int:
        guides = [guide for guide in self._guides if not guide.is_idle]
        for guide in guides:
            if (token := guide.forced()) is not None:
                return token
            guide.mask(logits)
        if guides and logits.max() == _BANNED:
            logits.fill(0)
            for guide in guides:
                guide.mask(logits)
            if logits.max() == _BANNED:
                raise GuideError("nothing may come next")
        return self._choose(logits)

    def _tell_guides(self, token: int, piece: bytes) -> None:
        if self.failure is not None:
            return
        try:
            for guide in self._guides:
                guide.accept(token, piece)
        except GuideError as error:
            self.failure = str(error)

    def _choose(self, logits: Float32Array) -> int:
        return int(logits.argmax()) if self.params.temperature == 0 else self._draw(logits)

    def _draw(self, logits: Float32Array) -> int:
        params = self.params
        point = self._random.random()
        if 0 < params.top_k < logits.size:
            ids = top_k_ids(logits, params.top_k)
            weights = _softmax_weights(logits[ids], params.temperature)
        else:
            ids = None
            weights = _softmax_weights(logits, params.temperature)
        if params.min_p > 0:
            weights[weights < params.min_p] = 0  # the largest weight is 1
        if params.top_p < 1:
            kept = nucleus(weights, params.top_p)
            weights = weights[kept]
            ids = kept if ids is None else ids[kept]
        cumulative = np.cumsum(weights, dtype=np.float64)
        chosen = int(np.searchsorted(cumulative, point * cumulative[-1], side="right"))
        chosen = min(chosen, cumulative.size - 1)
        return chosen if ids is None else int(ids[chosen])


class _SeenTokens:
    """Distinct tokens of a sequence with how often each was generated, as arrays that grow by doubling."""

    def __init__(self, prompt_tokens: Iterable[int]) -> None:
        prompt = np.unique(np.fromiter(prompt_tokens, np.int64))
        self._size = prompt.size
        capacity = max(256, 2 * self._size)
        self._ids = np.zeros(capacity, np.int64)
        self._ids[: self._size] = prompt
        self._counts = np.zeros(capacity, np.float32)
        self._row_of = {int(token): row for row, token in enumerate(prompt)}

    def count(self, token: int) -> None:
        row = self._row_of.get(token)
        if row is None:
            row = self._row_of[token] = self._size
            if row == self._ids.size:
                self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
                self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
            self._ids[row] = token
            self._size += 1
        self._counts[row] += 1

    def penalise(self, logits: Float32Array, params: SamplingParams) -> None:
        ids = self._ids[: self._size]
        counts = self._counts[: self._size]
        values = logits[ids]
        if params.repetition_penalty != 1.0:
            factor = np.float32(params.repetition_penalty)
            values = np.where(values > 0, values / factor, values * factor)
        values -= np.float32(params.frequency_penalty) * counts
        values -= np.float32(params.presence_penalty) * (counts > 0)
        logits[ids] = values


def top_k_ids(logits: Float32Array, k: int) -> Int64Array:
    """Ids of the k largest of `logits` (float32[n_vocab]), in no order.

    A column maximum over 64 rows finds the k columns that can hold them, so that only 64 k values are partitioned.
    """
    width = logits.size // _COLUMN_HEIGHT
    if k >= width:
        return np.argpartition(logits, logits.size - k)[logits.size - k :]
    folded = logits[: width * _COLUMN_HEIGHT].reshape(_COLUMN_HEIGHT, width)
    columns = np.argpartition(folded.max(axis=0), width - k)[width - k :]
    ids = (columns[None, :] + width * np.arange(_COLUMN_HEIGHT)[:, None]).ravel()
    ids = np.concatenate((ids, np.arange(width * _COLUMN_HEIGHT, logits.size)))
    return ids[np.argpartition(logits[ids], ids.size - k)[ids.size - k :]]


def nucleus(weights: Float32Array, top_p: float) -> Int64Array:
    """Rows of the smallest set of largest weights whose share of the total reaches `top_p`, largest first."""
    total = float(weights.sum(dtype=np.float64))
    # What lies below this bound weighs less than 1 - top_p even all together: it cannot be needed.
    rows = np.flatnonzero(weights >= (1 - top_p) * total / weights.size)
    rows = rows[np.argsort(-weights[rows], kind="stable")]
    cumulative = np.cumsum(weights[rows], dtype=np.float64)
    return rows[: int(np.searchsorted(cumulative, top_p * total)) + 1]


def sample_rows(logits: Float32Array, samplers: Sequence[Sampler]) -> list[int]:
    """One token a row. `logits`: float32[n_rows, n_vocab], row i belonging to `samplers[i]`."""
    if all(sampler.is_plain_greedy for sampler in samplers):
        tokens: list[int] = logits.argmax(axis=1).tolist()
        return tokens
    return [sampler.sample(row) for sampler, row in zip(samplers, logits, strict=True)]


def _softmax_weights(logits: Float32Array, temperature: float) -> Float32Array:
    """exp((l - max) / temperature): unnormalised probabilities whose largest is 1."""
    weights: Float32Array = (logits - logits.max()) * np.float32(1 / max(temperature, 1e-5))
    np.exp(weights, out=weights)
    return weights
