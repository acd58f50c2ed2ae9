from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.llamacpp.sampling import Sampler, SamplingParams, nucleus, sample_rows, top_k_ids

Float32Array = npt.NDArray[np.float32]

EOG = frozenset({1, 3})
CHI_SQUARE_999 = {3: 16.27, 5: 20.52, 7: 24.32}  # the 0.999 quantile by degrees of freedom
seeds = st.integers(0, 2**32 - 1)


def normal_logits(seed: int, size: int) -> Float32Array:
    return np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)


def tied_logits(seed: int, size: int) -> Float32Array:
    return np.random.default_rng(seed).integers(-3, 4, size).astype(np.float32)


def sampler(prompt: tuple[int, ...] = (), **params: Any) -> Sampler:
    return Sampler(SamplingParams(**params), prompt, EOG)


def drawn(logits: Float32Array, n: int, **params: Any) -> Counter[int]:
    one = sampler(seed=7, **params)
    return Counter(one.sample(logits.copy()) for _ in range(n))


def probabilities(logits: Float32Array) -> npt.NDArray[np.float64]:
    weights = np.exp(logits.astype(np.float64) - float(logits.max()))
    return np.asarray(weights / weights.sum())


@given(seeds, st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([normal_logits, tied_logits]))
def test_top_k_holds_the_k_largest_values(seed: int, size: int, k: int, make: Any) -> None:
    logits, k = make(seed, size), min(k, size)
    ids = top_k_ids(logits, k)
    assert len(set(ids.tolist())) == k
    assert np.sort(logits[ids]).tolist() == np.sort(logits)[size - k :].tolist()


@given(seeds, st.sampled_from([49152, 49155, 262144]), st.sampled_from([1, 2, 40, 200]))
def test_top_k_of_whole_vocabularies_agrees_with_a_sort(seed: int, size: int, k: int) -> None:
    logits = normal_logits(seed, size)
    assert sorted(top_k_ids(logits, k).tolist()) == sorted(np.argsort(logits)[size - k :].tolist())


@given(seeds, st.integers(1, 400), st.floats(1e-6, 0.999), st.booleans())
def test_nucleus_is_the_smallest_set_that_reaches_the_share(seed: int, size: int, top_p: float, equal: bool) -> None:
    weights = np.ones(size, np.float32) if equal else np.exp(normal_logits(seed, size))
    weights /= weights.max()
    kept = nucleus(weights, top_p)
    in_order = np.sort(weights)[::-1].astype(np.float64)
    share = np.cumsum(in_order) / in_order.sum()
    n_expected = int(np.argmax(share >= top_p)) + 1 if share[-1] >= top_p else size
    assert abs(len(kept) - n_expected) <= 1  # a share that is met exactly may be rounded either way
    if not np.isclose(share, top_p, rtol=0, atol=1e-7).any():
        assert len(kept) == n_expected
    assert weights[kept].tolist() == in_order[: len(kept)].astype(np.float32).tolist()


@given(
    seeds,
    st.lists(st.integers(0, 29), max_size=8),
    st.lists(st.integers(0, 29), max_size=400),
    st.floats(0.5, 2, width=32),
    st.floats(-2, 2, width=32),
    st.floats(-2, 2, width=32),
)
def test_penalties_are_those_of_vllm(
    seed: int, prompt: list[int], output: list[int], repetition: float, presence: float, frequency: float
) -> None:
    """`vllm/model_executor/layers/utils.py`, `apply_penalties`."""
    logits = normal_logits(seed, 30)
    counts = np.bincount(np.array(output, np.int64), minlength=30).astype(np.float32)
    seen = counts > 0
    seen[prompt] = True
    expected = logits.copy()
    expected[seen] = np.where(expected[seen] > 0, expected[seen] / repetition, expected[seen] * repetition)
    expected -= np.float32(frequency) * counts
    expected -= np.float32(presence) * (counts > 0)
    one = sampler(
        tuple(prompt),
        temperature=0.0,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
    )
    for token in output:
        one.accept(token)
    changed = logits.copy()
    chosen = one.sample(changed)
    np.testing.assert_allclose(changed, expected, rtol=1e-5, atol=1e-4)
    assert expected[chosen] >= expected.max() - 1e-3


def test_more_distinct_tokens_than_the_first_table_holds_are_all_penalised() -> None:
    one = sampler(temperature=0.0, presence_penalty=1.0)
    for token in range(1000):
        one.accept(token)
    logits = np.zeros(1001, np.float32)
    assert one.sample(logits) == 1000
    assert logits[:1000].tolist() == [-1.0] * 1000


@given(seeds, st.lists(st.integers(0, 2), max_size=30))
def test_seed_gives_the_same_tokens_whoever_else_is_in_the_batch(seed: int, others: list[int]) -> None:
    rows = [normal_logits(step, 50) for step in range(5)]
    alone = sampler(seed=seed)
    expected = [alone.sample(row.copy()) for row in rows]
    one, crowd = sampler(seed=seed), [sampler(seed=i, top_k=3) for i in range(3)]
    tokens = []
    for row in rows:
        for other in others:
            crowd[other].sample(row.copy())
        batch = [sampler(seed=1, temperature=0.0), one, crowd[0]]
        tokens.append(sample_rows(np.stack([row] * 3), batch)[1])
    assert tokens == expected


@pytest.mark.parametrize("seed", [-1, 2**63 - 1, -(2**63), 0])
def test_any_whole_number_is_a_seed(seed: int) -> None:
    row = normal_logits(0, 100)
    assert sampler(seed=seed).sample(row.copy()) == sampler(seed=seed).sample(row.copy())


def test_without_a_seed_no_two_answers_need_be_the_same() -> None:
    row = np.zeros(1000, np.float32)
    assert len({sampler().sample(row.copy()) for _ in range(20)}) > 1


def test_temperature_zero_takes_the_largest_in_one_batch_with_others() -> None:
    rows = np.stack([normal_logits(seed, 1000) for seed in range(4)])
    largest = rows.argmax(axis=1).tolist()
    greedy = [sampler(temperature=0.0) for _ in range(4)]
    assert sample_rows(rows.copy(), greedy) == largest
    assert sample_rows(rows.copy(), [*greedy[:3], sampler(seed=1)])[:3] == largest[:3]


def test_tiny_temperature_is_as_good_as_none() -> None:
    row = normal_logits(3, 500)
    assert drawn(row, 50, temperature=1e-9) == {int(row.argmax()): 50}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_end_tokens_are_banned_until_enough_was_said(temperature: float) -> None:
    row = np.zeros(5, np.float32)
    row[[1, 3]] = 50
    one = sampler(seed=1, temperature=temperature, min_tokens=2)
    for _ in range(2):
        token = one.sample(row.copy())
        assert token not in EOG
        one.accept(token)
    assert one.sample(row.copy()) in EOG


def test_ignored_end_tokens_never_come() -> None:
    row = np.zeros(5, np.float32)
    row[[1, 3]] = 50
    assert not EOG & drawn(row, 200, ignore_eos=True).keys()


def test_bias_adds_to_logits() -> None:
    row = np.array([0, 1, 2, 3], np.float32)
    assert drawn(row, 100, logit_bias={0: 100.0}) == {0: 100}
    assert 3 not in drawn(row, 100, logit_bias={3: -100.0})
    biased = drawn(np.zeros(4, np.float32), 4000, logit_bias={2: float(np.log(5))})
    assert biased[2] / 4000 == pytest.approx(5 / 8, abs=0.03)


def test_bias_cannot_lift_the_ban_on_end_tokens() -> None:
    row = np.zeros(5, np.float32)
    assert not EOG & drawn(row, 200, ignore_eos=True, logit_bias={1: 100.0}).keys()


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({}, 8),
        ({"temperature": 0.5}, 8),
        ({"top_k": 4}, 4),
        ({"top_p": 0.9}, 4),
        ({"min_p": 0.1}, 4),
        ({"top_k": 6, "top_p": 0.97, "temperature": 2.0}, 6),
    ],
)
def test_tokens_come_as_often_as_their_probabilities_say(params: dict[str, Any], kept: int) -> None:
    logits = np.log(np.array([0.4, 0.25, 0.2, 0.1, 0.02, 0.015, 0.01, 0.005], np.float32))
    order = np.random.default_rng(1).permutation(8)
    expected = probabilities((logits / params.get("temperature", 1.0)).astype(np.float32))[:kept]
    expected /= expected.sum()
    n = 20_000
    counts = drawn(logits[order], n, **params)
    seen = np.array([counts[int(np.flatnonzero(order == rank)[0])] for rank in range(8)])
    assert seen[kept:].sum() == 0
    chi_square = float(((seen[:kept] - n * expected) ** 2 / (n * expected)).sum())
    assert chi_square < CHI_SQUARE_999[kept - 1]


@given(seeds, st.floats(0.05, 2), st.integers(0, 60), st.floats(0.05, 1), st.floats(0, 1))
def test_whatever_the_filters_the_token_passed_them(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    row = normal_logits(seed, 50)
    one = sampler(seed=seed, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    token = one.sample(row.copy())
    chances = probabilities((row / np.float32(temperature)).astype(np.float32))
    assert chances[token] >= min_p * chances.max() * 0.999
    assert not top_k or int((row > row[token]).sum()) < top_k
    assert chances[chances > chances[token]].sum() <= top_p + 1e-6 or top_k > 0 or min_p > 0
