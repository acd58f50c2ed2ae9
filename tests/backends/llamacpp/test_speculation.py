from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.llamacpp.sequence import Sequence
from backends.llamacpp.speculation import (
    MAX_DRAFT_BYTES,
    MAX_DRAFT_TOKENS,
    MIN_CHANCE,
    MIN_GAIN,
    Drafter,
    Speculation,
    StepCost,
    levelled,
    max_draft_rows,
)

SURE = [0.97**n for n in range(1, MAX_DRAFT_TOKENS + 1)]
DOUBTFUL = [0.3**n for n in range(1, MAX_DRAFT_TOKENS + 1)]


def learned(n_sequences: int, *, plain_s: float, draft_s: float) -> StepCost:
    cost = StepCost()
    for n_drafted in (0, 1, 2, 4, 8, 16, 32, 64):
        cost.learn(n_sequences, n_drafted, plain_s + n_drafted * draft_s)
    return cost


def rate(n_sequences: int, plain_s: float, draft_s: float, chances: list[list[float]], counts: list[int]) -> float:
    n_tokens = n_sequences + sum(sum(own[:count]) for own, count in zip(chances, counts, strict=True))
    return n_tokens / (plain_s + draft_s * sum(counts))


def test_nothing_is_guessed_before_a_step_without_guesses_was_measured() -> None:
    cost = StepCost()
    assert cost.allot(1, [SURE], 100) == [0]
    cost.learn(1, 0, 0.01)
    assert cost.allot(1, [SURE], 100) > [10]
    assert cost.allot(2, [SURE, []], 100) == [0, 0]


def test_rows_that_cost_little_are_all_taken_and_rows_that_cost_a_token_are_not() -> None:
    assert learned(1, plain_s=0.03, draft_s=0.0001).allot(1, [SURE], 100) == [15]
    assert learned(1, plain_s=0.03, draft_s=0.03).allot(1, [SURE], 100) == [0]
    assert learned(16, plain_s=0.16, draft_s=0.0095).allot(16, [SURE] * 16, 100) == [0] * 16


def test_doubtful_guesses_are_taken_only_where_they_cost_next_to_nothing() -> None:
    assert learned(1, plain_s=0.03, draft_s=0.015).allot(1, [DOUBTFUL], 100) == [0]
    (count,) = learned(1, plain_s=0.03, draft_s=0.0003).allot(1, [DOUBTFUL], 100)
    assert 1 <= count <= 4


def test_likelier_guesses_go_first_where_room_is_short() -> None:
    cost = learned(2, plain_s=0.03, draft_s=0.0001)
    assert cost.allot(2, [DOUBTFUL, SURE], 10) == [0, 10]


@given(
    n_sequences=st.integers(1, 6),
    draft_share=st.floats(0.001, 1.5),
    each=st.lists(st.tuples(st.floats(0.01, 0.99), st.integers(0, 15)), min_size=6, max_size=6),
    n_rows=st.integers(0, 40),
)
def test_no_other_numbers_of_guesses_are_expected_to_be_faster(
    n_sequences: int, draft_share: float, each: list[tuple[float, int]], n_rows: int
) -> None:
    plain_s, draft_s = 0.02, 0.02 * draft_share / n_sequences
    chances = [[p**n for n in range(1, length + 1)] for p, length in each[:n_sequences]]
    counts = learned(n_sequences, plain_s=plain_s, draft_s=draft_s).allot(n_sequences, chances, n_rows)
    assert sum(counts) <= n_rows
    assert all(count <= len(own) for count, own in zip(counts, chances, strict=True))
    mine = rate(n_sequences, plain_s, draft_s, chances, counts)
    plain = n_sequences / plain_s
    assert not sum(counts) or mine >= MIN_GAIN * plain * 0.999
    for i, own in enumerate(chances):
        if counts[i] < len(own) and own[counts[i]] >= MIN_CHANCE and sum(counts) < n_rows:
            more = [count + (i == j) for j, count in enumerate(counts)]
            assert rate(n_sequences, plain_s, draft_s, chances, more) <= max(mine, MIN_GAIN * plain) * 1.001
        if counts[i] > 0:
            fewer = [count - (i == j) for j, count in enumerate(counts)]
            assert rate(n_sequences, plain_s, draft_s, chances, fewer) <= mine * 1.001


def test_a_step_that_was_held_up_does_not_end_all_guessing() -> None:
    cost = learned(1, plain_s=0.02, draft_s=0.004)
    for n_drafted in (1, 2, 4, 8):
        for _ in range(60):
            cost.learn(1, n_drafted, 1.0)
    assert cost.allot(1, [SURE], 100) == [0]
    n_steps = 0
    while cost.allot(1, [SURE], 100) == [0]:
        n_steps += 1
        assert n_steps < 100
    for _ in range(30):
        cost.learn(1, 8, 0.02 + 8 * 0.004)
    assert cost.allot(1, [SURE], 100) >= [8]


def test_each_size_is_known_by_its_own_cost() -> None:
    cost = StepCost()
    for _ in range(30):
        for n_drafted in range(16):
            cost.learn(1, n_drafted, 0.01 + 0.01 * (n_drafted > 0) + 0.001 * n_drafted)
    assert cost.allot(1, [SURE[:1]], 100) == [0]
    assert cost.allot(1, [SURE], 100) > [8]
    assert cost.allot(1, [SURE[:6]], 100) == [6]


def test_other_numbers_of_sequences_begin_with_what_is_known() -> None:
    cost = learned(1, plain_s=0.02, draft_s=0.019)
    cost.learn(2, 0, 0.021)
    assert cost.allot(2, [SURE[:8], []], 100) == [0, 0]
    cost.learn(3, 0, 0.2)
    assert cost.allot(3, [SURE[:8], [], []], 100) == [8, 0, 0]


def test_unlikely_guesses_do_not_make_guessing_look_cheap() -> None:
    cost = learned(1, plain_s=0.02, draft_s=0.015)
    for _ in range(1000):
        assert cost.allot(1, [DOUBTFUL], 100) == [0]
    assert cost.allot(1, [[0.8]], 100) == [0]


@pytest.mark.parametrize(
    ("n_parallel", "n_batch", "n_vocab", "n_rows"),
    [(1, 512, 49_152, 15), (16, 512, 49_152, 240), (16, 512, 262_144, 64), (16, 32, 49_152, 8), (40, 32, 49_152, 0)],
)
def test_rows_of_guesses_are_bounded_by_memory_and_batch(
    n_parallel: int, n_batch: int, n_vocab: int, n_rows: int
) -> None:
    assert max_draft_rows(n_parallel=n_parallel, n_batch=n_batch, n_vocab=n_vocab) == n_rows
    assert n_rows * n_vocab * 4 <= MAX_DRAFT_BYTES


def test_drafter_learns_from_guesses_that_nobody_computed() -> None:
    drafter, tokens = Drafter(1000), [*range(50), *range(8)]
    before = drafter.guess(tokens, 15)
    for token in range(8, 30):
        tokens.append(token)
        drafter.guess(tokens, 15)
    assert drafter.draft(3) == [30, 31, 32]
    assert drafter.guess(tokens, 15)[-1] > before[-1]


def test_streams_get_numbers_that_are_computed_together() -> None:
    assert levelled([]) == []
    assert levelled([0, 0]) == [0, 0]
    assert levelled([3, 5, 0]) == [3, 3, 0]
    assert levelled([1, 15, 1, 0]) == [0, 15, 0, 0]
    assert levelled([7, 8, 9, 2]) == [7, 7, 7, 0]


def repetitive(max_tokens: int = 100) -> Sequence:
    prompt = [*range(50), *range(10)]
    return Sequence(prompt, len(prompt), max_tokens)


def cheap(*, max_rows: int = 100, n_ctx: int = 1000, shares_cells: bool = True) -> Speculation:
    speculation = Speculation(max_rows, n_ctx, shares_cells)
    for n_sequences in range(1, 5):
        speculation.cost.learn(n_sequences, 0, 1.0)
        for n_drafted in (1, 2, 4, 8, 16, 32, 64):
            speculation.cost.learn(n_sequences, n_drafted, 1.0)
    return speculation


def test_guesses_end_before_the_last_token_and_the_last_place() -> None:
    one = repetitive(max_tokens=4)
    assert cheap().drafts([one], 1) == {one: [10, 11, 12]}
    assert cheap(n_ctx=63).drafts([one], 1) == {one: [10, 11]}
    assert cheap().drafts([repetitive(max_tokens=1)], 1) == {}


def test_guesses_of_all_sequences_are_bounded_together() -> None:
    ones = [repetitive() for _ in range(4)]
    drafts = cheap(max_rows=20).drafts(ones, 4)
    assert sum(map(len, drafts.values())) == 20
    assert cheap(max_rows=0).drafts(ones, 4) == {}


def test_sequences_that_are_gone_are_forgotten() -> None:
    speculation = cheap()
    ones = [repetitive() for _ in range(4)]
    speculation.drafts(ones, 4)
    speculation.drafts(ones[:1], 1)
    assert list(speculation._drafters) == ones[:1]
