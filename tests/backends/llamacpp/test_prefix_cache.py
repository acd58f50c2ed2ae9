"""Who gives way, what goes to RAM and what comes back."""

from __future__ import annotations

import pytest

from backends.llamacpp.prefix_cache import PrefixCache
from tests.backends.llamacpp.cells import FakeCells, fake_cache

SYSTEM = [1] * 50


def run(cache: PrefixCache, prompt: list[int]) -> tuple[int, int]:
    """Compute a prompt and leave it idle: (seq_id, tokens that were there)."""
    seq_id, n_reused = cache.claim(cache.find(prompt))
    finish(cache, seq_id, prompt[n_reused:])
    cache.release(seq_id)
    cache.check()
    return seq_id, n_reused


def finish(cache: PrefixCache, seq_id: int, tokens: list[int]) -> None:
    fake = cache._cells
    assert isinstance(fake, FakeCells)
    fake.compute(seq_id, tokens)
    cache.extend(seq_id, tokens)


def make(
    n_seqs: int = 3, *, shares_cells: bool = True, ram: int = 0, n_cells: int = 600, kind: str = "plain"
) -> PrefixCache:
    return fake_cache(FakeCells(n_cells, 200, shares_cells, kind), n_seqs, ram)


@pytest.mark.parametrize("shares_cells", [True, False])
def test_conversation_goes_on_in_place(shares_cells: bool) -> None:
    cache = make(shares_cells=shares_cells)
    run(cache, [2] * 20)
    assert run(cache, SYSTEM + [3] * 10) == (1, 0)
    assert run(cache, SYSTEM + [3] * 10 + [4] * 10) == (1, 60)
    assert cache.stats.n_forks == 0


@pytest.mark.parametrize("shares_cells", [True, False])
def test_other_question_under_the_same_system_prompt_leaves_the_first_where_it_is(shares_cells: bool) -> None:
    cache = make(shares_cells=shares_cells)
    run(cache, SYSTEM + [3] * 20)
    assert run(cache, SYSTEM + [4] * 20) == (1, 50)
    assert run(cache, SYSTEM + [3] * 20 + [5]) == (0, 70)
    assert cache.n_cells_used == (50 + 21 + 20 if shares_cells else 71 + 70)


def test_least_recently_used_gives_way() -> None:
    cache = make()
    for token in (2, 3, 4):
        run(cache, [token] * 30)
    run(cache, [2] * 31)
    assert run(cache, [5] * 30) == (1, 0)
    assert run(cache, [2] * 32) == (0, 31)
    assert run(cache, [3] * 30)[1] == 0


@pytest.mark.parametrize("shares_cells", [True, False])
@pytest.mark.parametrize("kind", ["plain", "window", "recurrent"])
def test_more_conversations_than_sequences_come_back_from_ram(shares_cells: bool, kind: str) -> None:
    cache = make(2, shares_cells=shares_cells, ram=100_000, kind=kind)
    talks = {person: [10 + person] * 20 for person in range(6)}
    for turn in range(4):
        for person, said in talks.items():
            n_reused = run(cache, said)[1]
            assert n_reused == (len(said) - 10 if turn else 0)
            said += [100 * turn + person] * 10
    assert cache.stats.n_restores > 0


def test_ram_is_bounded_and_the_least_recently_used_state_goes_first() -> None:
    cache = make(1, ram=1000)  # a state takes 10 bytes a token: three of these
    for token in (2, 3, 4, 5, 6):
        run(cache, [token] * 30)
        assert cache.n_spilled_bytes <= 1000
    assert run(cache, [2] * 31)[1] == 0
    assert run(cache, [5] * 31)[1] == 30


def test_state_larger_than_the_budget_is_not_kept() -> None:
    cache = make(1, ram=250)
    run(cache, [2] * 30)
    run(cache, [3] * 20)
    assert (cache.n_spilled_bytes, cache.stats.n_spills) == (0, 0)


def test_longer_state_of_a_conversation_takes_the_place_of_the_shorter() -> None:
    cache = make(1, ram=100_000)
    run(cache, [2] * 30)
    run(cache, [3] * 30)
    run(cache, [2] * 30 + [4] * 10)
    run(cache, [3] * 31)
    assert cache.n_spilled_bytes == 10 * 40


def test_state_that_others_begin_with_too_stays_in_ram() -> None:
    cache = make(1, ram=100_000)
    run(cache, SYSTEM + [2] * 20)
    run(cache, [9] * 30)
    assert run(cache, SYSTEM + [3] * 20)[1] == 50
    assert run(cache, SYSTEM + [2] * 20 + [4])[1] == 70


def test_what_another_holds_as_well_is_not_saved() -> None:
    cache = make(2, ram=100_000)
    run(cache, SYSTEM)
    first, _ = cache.claim(cache.find([*SYSTEM, 2]))
    second, n_reused = cache.claim(cache.find([*SYSTEM, 3]))
    assert (first, second, n_reused) == (0, 1, 50)
    finish(cache, first, [2])
    for seq_id in (first, second):
        cache.release(seq_id)
    cache.displace(second)
    assert cache.stats.n_spills == 0


def test_running_sequences_stay_side_by_side_between_streams() -> None:
    cache = make(4, shares_cells=False, ram=100_000)
    for token in (2, 3, 4, 5):
        run(cache, [token] * 30)
    claimed = [cache.claim(cache.find([token] * 31)) for token in (5, 2, 3)]
    assert all(n_reused == 30 for _, n_reused in claimed)
    seq_ids = sorted(seq_id for seq_id, _ in claimed)
    assert seq_ids == list(range(seq_ids[0], seq_ids[0] + 3))
    cache.check()


def test_cells_run_out_before_sequences_do() -> None:
    cache = make(4, n_cells=100)
    run(cache, [2] * 60)
    match = cache.find([3] * 60)
    assert not cache.can_take(match.n_new_cells)
    assert cache.evict()
    assert cache.can_take(match.n_new_cells)
    assert not cache.evict()


def test_integrity_check_notices_cells_that_are_not_there() -> None:
    cache = make()
    seq_id, _ = run(cache, SYSTEM)
    fake = cache._cells
    assert isinstance(fake, FakeCells)
    fake.rows[seq_id].pop()
    with pytest.raises(ValueError, match="50 noted, 49 in the cells"):
        cache.check()
