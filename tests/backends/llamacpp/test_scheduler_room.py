from __future__ import annotations

from backends.llamacpp.scheduler import Scheduler
from tests.backends.llamacpp.cells import FakeCells, fake_cache
from tests.backends.llamacpp.scheduling import advance, asked, scheduler


def test_youngest_gives_way_when_cells_run_out_and_is_first_to_come_back() -> None:
    one = scheduler(n_parallel=2, n_ctx=100, n_cells=100)
    older, younger, third = asked([1] * 40), asked([2] * 40), asked([3] * 40)
    for sequence in (older, younger, third):
        one.submit(sequence)
    advance(one)
    while younger not in one.waiting:
        assert advance(one)
    assert one.running == [older]
    assert list(one.waiting) == [younger, third]
    n_said = younger.n_generated_tokens
    one.release(older)
    advance(one)
    assert one.running[0] is younger
    assert younger.n_generated_tokens == n_said + 1


def test_who_gave_way_goes_on_from_ram_and_computes_nothing_twice() -> None:
    fake = FakeCells(100, 100)
    one = Scheduler(fake_cache(fake, 2, ram_budget_bytes=10_000), n_ctx=100, n_batch=100)
    older, younger = asked([1] * 40), asked([2] * 40)
    one.submit(older)
    one.submit(younger)
    while younger not in one.waiting:
        advance(one)
    one.release(older)
    n_said = younger.n_generated_tokens
    while younger.n_generated_tokens < n_said + 5:
        advance(one)
    assert fake.computed.count(2) == 40
    assert younger.n_reused_tokens == 0, "what was its own before is no news to its client"


def test_sequence_without_a_slot_cannot_be_released_twice() -> None:
    one = scheduler()
    sequence = asked([1])
    one.submit(sequence)
    one.release(sequence)
    one.release(sequence)
    assert not one.has_work


def test_clear_tells_who_was_running_and_keeps_who_waits() -> None:
    one = scheduler(n_parallel=1, n_cells=200)
    first, second = asked([1] * 80), asked([1] * 80)
    one.submit(first)
    one.submit(second)
    advance(one)
    assert one.clear() == [first]
    assert one.cache.n_cells_used == 0
    (piece,) = one.plan(1000)
    assert (piece.sequence, piece.start) == (second, 0)


def test_prompt_that_has_to_wait_for_cells_takes_none_from_idle_ones_meanwhile() -> None:
    one = scheduler(n_parallel=3, n_ctx=200, n_cells=250)
    idle = asked([1] * 40)
    one.submit(idle)
    advance(one)
    one.release(idle)
    running, waiting = asked([2] * 120), asked([3] * 150)
    one.submit(running)
    one.submit(waiting)
    for _ in range(3):
        advance(one)
    assert list(one.waiting) == [waiting]
    assert one.cache.find([1] * 41).n_tokens == 40
