from __future__ import annotations

import pytest

from backends.llamacpp.prefix_cache import MIN_REUSE_TOKENS
from backends.llamacpp.scheduler import Scheduler
from tests.backends.llamacpp.cells import fake_cache
from tests.backends.llamacpp.scheduling import advance, asked, cells, scheduler, sizes


def test_prompt_that_begins_like_a_finished_one_is_computed_from_where_it_differs() -> None:
    one = scheduler()
    first = asked([1] * 90 + [2] * 5)
    one.submit(first)
    advance(one)
    one.release(first)
    second = asked([1] * 90 + [3] * 5)
    one.submit(second)
    (piece,) = one.plan(1000)
    assert (piece.start, piece.n_tokens, second.n_reused_tokens) == (90, 5, 90)


def test_same_prompt_again_computes_its_last_token_for_the_logits() -> None:
    one = scheduler()
    first, again = asked([1] * 90), asked([1] * 90)
    one.submit(first)
    advance(one)
    one.release(first)
    one.submit(again)
    (piece,) = advance(one)
    assert (piece.start, piece.n_tokens) == (89, 1)


def test_short_common_beginning_is_not_worth_a_higher_slot() -> None:
    one = scheduler(n_parallel=2, n_cells=400)
    sequences = [asked([i] * (MIN_REUSE_TOKENS - 1)) for i in range(2)]
    for sequence in sequences:
        one.submit(sequence)
    advance(one)
    advance(one)
    for sequence in sequences:
        one.release(sequence)
    again = asked([1] * 80)
    one.submit(again)
    (piece,) = advance(one)
    assert (piece.seq_id, piece.start) == (0, 0)


@pytest.mark.parametrize("shares_cells", [True, False])
@pytest.mark.parametrize("kind", ["plain", "window", "recurrent"])
def test_beginning_that_many_ask_for_at_once_is_computed_once(kind: str, shares_cells: bool) -> None:
    fake = cells(n_parallel=16, shares_cells=shares_cells, kind=kind)
    one = Scheduler(fake_cache(fake, 16), n_ctx=200, n_batch=64)
    sequences = [asked([1] * 100 + [100 + client] * 10) for client in range(16)]
    for sequence in sequences:
        one.submit(sequence)
    while not all(sequence.n_generated_tokens for sequence in sequences):
        advance(one, 40)
    assert fake.computed.count(1) == 100
    assert [sequence.n_reused_tokens for sequence in sequences] == [0] + [100] * 15


def test_nobody_waits_for_a_beginning_that_is_not_theirs() -> None:
    one = scheduler(n_batch=100)
    leader, follower, stranger = asked([1] * 150), asked([1] * 140 + [2] * 15), asked([3] * 145)
    for sequence in (leader, follower, stranger):
        one.submit(sequence)
    pieces = advance(one)
    assert follower not in sizes(pieces)
    assert stranger in one.running
    while follower in one.waiting:
        advance(one)
    assert follower.n_reused_tokens == 140


def test_beginning_is_computed_by_another_when_the_first_leaves() -> None:
    one = scheduler(n_batch=50)
    leader, follower = asked([1] * 150), asked([1] * 140 + [2] * 15)
    one.submit(leader)
    one.submit(follower)
    advance(one)
    one.release(leader)
    pieces = advance(one)
    assert sizes(pieces) == {follower: 50}
    assert follower.n_reused_tokens == 50


def test_images_are_taken_over_whole_or_not_at_all() -> None:
    one = scheduler(n_batch=200)
    image, other_image = list(range(-40, -10)), [*range(-40, -11), -99]
    first, same, other = (asked([1] * 20 + pieces + [5] * 40) for pieces in (image, image, other_image))
    for sequence in (first, same, other):
        one.submit(sequence)
        while not sequence.n_generated_tokens:
            advance(one)
        one.release(sequence)
    assert (same.n_reused_tokens, other.n_reused_tokens) == (89, 20)
