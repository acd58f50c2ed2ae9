from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backends.llamacpp.scheduler import MIN_REUSE_TOKENS, Piece, Scheduler, Sequence, common_prefix

SYSTEM_PROMPTS: tuple[list[int], ...] = ([1] * 100, [2] * 70, [1] * 80 + [3] * 40, [])


@dataclass(slots=True)
class Cells:
    """What llama.cpp's cache would hold: the tokens of every `seq_id`."""

    n_total: int
    rows: dict[int, list[int]] = field(default_factory=dict)

    @property
    def n_used(self) -> int:
        return sum(map(len, self.rows.values()))

    def keep(self, seq_id: int, n_keep: int) -> None:
        row = self.rows.setdefault(seq_id, [])
        assert n_keep <= len(row), "a prefix was promised that nobody computed"
        del row[n_keep:]

    def compute(self, piece: Piece) -> None:
        row = self.rows.setdefault(piece.seq_id, [])
        assert len(row) == piece.start, "cells are written in order, each once"
        row += piece.sequence.tokens[piece.start : piece.start + piece.n_tokens]


class SchedulerMachine(RuleBasedStateMachine):
    """Many clients, random ends and failures, against a model of the cache."""

    @initialize(
        n_parallel=st.integers(1, 5),
        n_ctx=st.integers(100, 250),
        n_shares=st.floats(1, 5),
        n_batch=st.integers(5, 200),
    )
    def start(self, n_parallel: int, n_ctx: int, n_shares: float, n_batch: int) -> None:
        n_ctx_total = int(n_ctx * min(n_shares, n_parallel))
        self.scheduler = Scheduler(n_parallel=n_parallel, n_ctx=n_ctx, n_ctx_total=n_ctx_total, n_batch=n_batch)
        self.n_parallel = n_parallel
        self.cells = Cells(n_ctx_total)
        self.alive: list[Sequence] = []
        self.arrived: list[Sequence] = []
        self.admitted: set[Sequence] = set()

    @rule(begin=st.sampled_from(SYSTEM_PROMPTS), n_more=st.integers(1, 60), max_tokens=st.integers(1, 40))
    def submit(self, begin: list[int], n_more: int, max_tokens: int) -> None:
        prompt = (begin + list(range(1000, 1000 + n_more)))[: self.scheduler.n_ctx - 1]
        sequence = Sequence(list(prompt), len(prompt), max_tokens)
        self.alive.append(sequence)
        self.arrived.append(sequence)
        self.scheduler.submit(sequence)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def client_leaves(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(self.alive)))

    @rule(prompt_budget=st.integers(1, 200), fails=st.sampled_from(["", "", "", "", "full", "fatal"]))
    def step(self, prompt_budget: int, fails: str) -> None:
        self.run_step(prompt_budget, fails=fails)

    @rule(prompt_budget=st.integers(1, 200))
    def step_whose_reuse_fails(self, prompt_budget: int) -> None:
        pieces = self.scheduler.plan(prompt_budget)
        for trim in self.scheduler.take_trims():
            self.cells.keep(trim.seq_id, 0)
            if trim.sequence is not None and trim.sequence.seq_id == trim.seq_id:
                self.scheduler.reuse_failed(trim.sequence)
        self.note_admissions()
        if all(piece.start == piece.sequence.n_past for piece in pieces):
            self.compute(pieces)

    @rule()
    def everybody_is_answered_in_the_end(self) -> None:
        for _ in range(60 * (len(self.alive) + 1) * (self.scheduler.n_ctx // self.scheduler.n_batch + 1)):
            if not self.scheduler.has_work:
                break
            assert self.run_step(64), "there is work and nothing was planned"
        assert not self.scheduler.has_work
        assert not self.alive

    def run_step(self, prompt_budget: int, *, fails: str = "") -> list[Piece]:
        pieces = self.scheduler.plan(prompt_budget)
        for trim in self.scheduler.take_trims():
            self.cells.keep(trim.seq_id, trim.n_keep)
        assert self.scheduler.take_trims() == []
        self.note_admissions()
        self.check_reuse()
        self.check(pieces)
        if fails == "full" and pieces:
            n_running = len(self.scheduler.running)
            assert self.scheduler.make_room() or n_running == 1
        elif fails == "fatal" and pieces:
            for sequence in self.scheduler.clear():
                self.alive.remove(sequence)
        else:
            self.compute(pieces)
        return pieces

    def note_admissions(self) -> None:
        """First come, first served: whoever came before somebody admitted has been admitted too, or has left."""
        self.admitted |= set(self.scheduler.running)
        order = [sequence in self.admitted for sequence in self.arrived if sequence in self.alive]
        assert order == sorted(order, reverse=True)

    def check_reuse(self) -> None:
        for sequence in self.scheduler.running:
            assert sequence.seq_id is not None
            assert self.cells.rows.get(sequence.seq_id, []) == sequence.tokens[: sequence.n_past]
            assert sequence.n_past < len(sequence.tokens), "the last token is computed for its logits"
            assert sequence.n_reused_tokens == 0 or sequence.n_reused_tokens >= MIN_REUSE_TOKENS

    def check(self, pieces: list[Piece]) -> None:
        running = self.scheduler.running
        assert bool(pieces) == self.scheduler.has_work
        assert [piece.seq_id for piece in pieces] == sorted({piece.seq_id for piece in pieces})
        assert sum(piece.n_tokens for piece in pieces) <= self.scheduler.n_batch
        assert all(piece.n_tokens > 0 for piece in pieces)
        computed = [piece.sequence for piece in pieces]
        assert all(sequence in computed for sequence in running if sequence.is_decoding)
        assert not running or running[0] in computed, "the oldest always moves"

    def compute(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            self.cells.compute(piece)
        assert self.cells.n_used <= self.cells.n_total
        for sequence in list(self.scheduler.settle(pieces)):
            sequence.tokens.append(5000 + len(sequence.tokens))
            if sequence.n_generated_tokens >= sequence.max_tokens or len(sequence.tokens) >= self.scheduler.n_ctx:
                self.end(sequence)

    def end(self, sequence: Sequence) -> None:
        self.scheduler.release(sequence)
        self.alive.remove(sequence)
        assert sequence not in self.scheduler.running
        assert sequence not in self.scheduler.waiting
        assert sequence.seq_id is None

    @invariant()
    def everybody_alive_runs_or_waits_on_a_slot_of_their_own(self) -> None:
        running, waiting = self.scheduler.running, list(self.scheduler.waiting)
        assert sorted(map(id, [*running, *waiting])) == sorted(map(id, self.alive))
        taken = [sequence.seq_id for sequence in running]
        assert len(set(taken)) == len(taken) <= self.n_parallel
        assert all(seq_id in range(self.n_parallel) for seq_id in taken)
        assert all(sequence.seq_id is None for sequence in waiting)

    @invariant()
    def cells_are_counted_and_never_more_than_there_are(self) -> None:
        assert self.scheduler.n_cells_used() <= self.scheduler.n_ctx_total


SchedulerMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestScheduler = SchedulerMachine.TestCase


def scheduler(n_parallel: int = 4, n_ctx: int = 200, n_ctx_total: int = 800, n_batch: int = 100) -> Scheduler:
    return Scheduler(n_parallel=n_parallel, n_ctx=n_ctx, n_ctx_total=n_ctx_total, n_batch=n_batch)


def asked(prompt: list[int], max_tokens: int = 50) -> Sequence:
    return Sequence(list(prompt), len(prompt), max_tokens)


def advance(scheduler: Scheduler, budget: int = 1000) -> list[Piece]:
    pieces = scheduler.plan(budget)
    scheduler.take_trims()
    for sequence in scheduler.settle(pieces):
        sequence.tokens.append(9)
    return pieces


def test_long_prompt_never_stops_a_running_answer() -> None:
    one = scheduler(n_batch=20)
    first, second = asked([1] * 5), asked([2] * 150)
    one.submit(first)
    advance(one)
    one.submit(second)
    for n_more in range(1, 8):
        pieces = advance(one)
        assert {piece.sequence: piece.n_tokens for piece in pieces} == {first: 1, second: 19}
        assert first.n_generated_tokens == 1 + n_more


def test_older_prompts_are_computed_first() -> None:
    one = scheduler(n_batch=100)
    older, newer = asked([1] * 80), asked([2] * 80)
    one.submit(older)
    one.submit(newer)
    assert {piece.sequence: piece.n_tokens for piece in advance(one)} == {older: 80, newer: 20}


def test_prompt_budget_bounds_a_step_while_somebody_is_answering() -> None:
    one = scheduler(n_batch=100)
    first, second = asked([1] * 5), asked([2] * 80)
    one.submit(first)
    advance(one)
    one.submit(second)
    assert {piece.sequence: piece.n_tokens for piece in advance(one, 30)} == {first: 1, second: 30}


def test_prompt_that_begins_like_a_finished_one_is_computed_from_where_it_differs() -> None:
    one = scheduler()
    first = asked([1] * 90 + [2] * 5)
    one.submit(first)
    advance(one)
    one.release(first)
    second = asked([1] * 90 + [3] * 5)
    one.submit(second)
    (piece,) = one.plan(1000)
    (trim,) = one.take_trims()
    assert (piece.start, piece.n_tokens, second.n_reused_tokens) == (90, 5, 90)
    assert (trim.seq_id, trim.n_keep, trim.sequence) == (piece.seq_id, 90, second)


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
    one = scheduler()
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


def test_youngest_gives_way_when_cells_run_out_and_is_first_to_come_back() -> None:
    one = scheduler(n_parallel=2, n_ctx=100, n_ctx_total=100)
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


def test_sequence_without_a_slot_cannot_be_released_twice() -> None:
    one = scheduler()
    sequence = asked([1])
    one.submit(sequence)
    one.release(sequence)
    one.release(sequence)
    assert not one.has_work


def test_clear_tells_who_was_running_and_keeps_who_waits() -> None:
    one = scheduler(n_parallel=1)
    first, second = asked([1] * 80), asked([1] * 80)
    one.submit(first)
    one.submit(second)
    advance(one)
    assert one.clear() == [first]
    assert one.n_cells_used() == 0
    (piece,) = one.plan(1000)
    assert (piece.sequence, piece.start) == (second, 0)


@pytest.mark.parametrize(
    ("a", "b", "n"), [([], [], 0), ([1], [], 0), ([1, 2, 3], [1, 2, 4], 2), ([1, 2], [1, 2, 3], 2), ([2], [1], 0)]
)
def test_common_prefix_of_two_lists(a: list[int], b: list[int], n: int) -> None:
    assert common_prefix(a, b) == n
