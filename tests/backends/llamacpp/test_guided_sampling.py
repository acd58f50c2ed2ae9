"""A sampler that is told by guides what may come."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from backends.llamacpp.guide import Float32Array, GuideError
from backends.llamacpp.sampling import Sampler, SamplingParams, sample_rows

N_VOCAB, EOS = 300, 0


@dataclass
class Only:
    """Lets some tokens come."""

    tokens: list[int]
    error: str | None = None
    is_idle: bool = False
    is_complete: bool = False
    accepted: list[int] = field(default_factory=list)

    def forced(self) -> int | None:
        return None

    def mask(self, logits: Float32Array) -> None:
        if self.error:
            raise GuideError(self.error)
        kept = logits[self.tokens]
        logits.fill(-np.inf)
        logits[self.tokens] = kept

    def accept(self, token: int, piece: bytes) -> None:
        if token not in self.tokens:
            raise GuideError("not this one")
        self.accepted.append(token)


def sampler(guide: Only, **params: object) -> Sampler:
    return Sampler(SamplingParams(**params), [1, 2], frozenset({EOS}), guides=[guide])  # type: ignore[arg-type]


def noise(seed: int = 0) -> Float32Array:
    return np.random.default_rng(seed).normal(scale=5, size=N_VOCAB).astype(np.float32)


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0},
        {"temperature": 2.0},
        {"top_k": 1},
        {"top_k": 5, "top_p": 0.5},
        {"top_p": 0.01},
        {"min_p": 1.0},
        {"min_p": 0.1, "top_p": 0.9, "temperature": 2.0},
        {"repetition_penalty": 10.0, "presence_penalty": 2.0, "frequency_penalty": 2.0},
        {"logit_bias": {7: -100.0, 8: 100.0, 9: -100.0}},
    ],
)
def test_only_what_a_guide_lets_come_comes(params: dict[str, object]) -> None:
    guided = sampler(Only([7, 9]), **params)
    for seed in range(50):
        token = guided.sample(noise(seed))
        assert token in (7, 9)
        guided.accept(token)
    assert guided.failure is None


@pytest.mark.parametrize(
    "params", [{"ignore_eos": True}, {"min_tokens": 5}, {"min_tokens": 5, "top_p": 0.5, "top_k": 3}]
)
def test_end_that_is_banned_comes_where_nothing_else_is_left(params: dict[str, object]) -> None:
    guided = sampler(Only([EOS]), **params)
    assert guided.sample(noise()) == EOS
    assert guided.failure is None


def test_guides_that_leave_nothing_fail_their_own_answer_only() -> None:
    rows = np.stack([noise(1), noise(2), noise(3)])
    lost, broken, well = sampler(Only([])), sampler(Only([5], error="too complex")), sampler(Only([6]))
    assert sample_rows(rows, [lost, broken, well])[2] == 6
    assert (lost.failure, broken.failure, well.failure) == ("nothing may come next", "too complex", None)


def test_token_that_a_guide_does_not_take_fails_its_answer() -> None:
    guided = sampler(Only([5]))
    guided.accept(6)
    assert guided.failure == "not this one"
