from __future__ import annotations

import pytest

from backends.llamacpp.scheduler import GAP_PATIENCE_STEPS, Scheduler
from tests.backends.llamacpp.cells import fake_cache
from tests.backends.llamacpp.scheduling import advance, asked, cells, scheduler, sizes


def test_long_prompt_never_stops_a_running_answer() -> None:
    one = scheduler(n_batch=20)
    first, second = asked([1] * 5), asked([2] * 150)
    one.submit(first)
    advance(one)
    one.submit(second)
    for n_more in range(1, 8):
        assert sizes(advance(one)) == {first: 1, second: 19}
        assert first.n_generated_tokens == 1 + n_more


def test_of_equal_prompts_the_older_is_computed_first() -> None:
    one = scheduler(n_batch=100)
    older, newer = asked([1] * 80), asked([2] * 80)
    one.submit(older)
    one.submit(newer)
    assert sizes(advance(one)) == {older: 80}


def test_shorter_prompt_goes_before_a_longer_that_came_with_it() -> None:
    one = scheduler(n_batch=50)
    longer, shorter = asked([1] * 80), asked([2] * 40)
    one.submit(longer)
    one.submit(shorter)
    assert sizes(advance(one)) == {shorter: 40}
    assert sizes(advance(one)) == {shorter: 1, longer: 49}


def test_short_prompt_overtakes_a_long_one_that_is_being_computed() -> None:
    one = scheduler(n_batch=30)
    longer, shorter = asked([1] * 150), asked([2] * 20)
    one.submit(longer)
    advance(one)
    one.submit(shorter)
    assert sizes(advance(one)) == {shorter: 20}


@pytest.mark.parametrize("n_parallel", [1, 3])
def test_long_prompt_is_not_overtaken_for_ever(n_parallel: int) -> None:
    """Short ones come as fast as they are computed: when as many tokens were, it is the long one's turn."""
    one = scheduler(n_parallel=n_parallel, n_cells=200 * n_parallel, n_batch=20)
    longer = asked([1] * 150)
    one.submit(longer)
    n_computed = 0
    while not longer.n_past:
        one.submit(asked([2 + n_computed] * 20, max_tokens=1))
        n_computed += sum(sizes(advance(one)).values())
        for sequence in [s for s in one.running if s.n_generated_tokens]:
            one.release(sequence)
    assert n_computed <= 150 + 2 * 20


def test_prompt_budget_bounds_a_step_while_somebody_is_answering() -> None:
    one = scheduler(n_batch=100)
    first, second = asked([1] * 5), asked([2] * 80)
    one.submit(first)
    advance(one)
    one.submit(second)
    assert sizes(advance(one, 30)) == {first: 1, second: 30}


def test_last_sequence_moves_up_where_others_have_left_for_good() -> None:
    fake = cells(shares_cells=False)
    one = Scheduler(fake_cache(fake, 4, ram_budget_bytes=100_000), n_ctx=200, n_batch=100)
    sequences = [asked([i] * 20, max_tokens=100) for i in range(4)]
    for sequence in sequences:
        one.submit(sequence)
    advance(one)
    first, second, third, last = sequences
    for sequence in (second, third):
        one.release(sequence)
    for _ in range(GAP_PATIENCE_STEPS - 1):
        advance(one)
    assert (first.seq_id, last.seq_id) == (0, 3)
    advance(one)
    assert (first.seq_id, last.seq_id) == (0, 1)
    assert fake.tokens(1) == last.tokens[:-1]
    assert fake.n_tokens(3) == 0
    one.cache.check()
    again = asked([*second.tokens, 5])
    one.submit(again)
    advance(one)
    assert again.n_reused_tokens == 20, "who was there before is in RAM"


def test_first_word_does_not_wait_for_a_piece_of_the_next_prompt() -> None:
    one = scheduler()
    first, second, third = asked([1] * 60), asked([2] * 70), asked([3] * 90)
    for sequence in (first, second, third):
        one.submit(sequence)
    assert sizes(advance(one, 100)) == {first: 60}
    assert sizes(advance(one, 100)) == {first: 1, second: 70}
    assert sizes(advance(one, 100)) == {first: 1, second: 1, third: 90}
