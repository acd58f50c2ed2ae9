from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backends.llamacpp.logprobs import score
from backends.llamacpp.prefix_cache import MIN_REUSE_TOKENS
from backends.llamacpp.prefix_tree import common_prefix, outside_images
from backends.llamacpp.scheduler import GAP_PATIENCE_STEPS, Scheduler
from backends.llamacpp.sequence import Piece, Sequence
from tests.backends.llamacpp.cells import FakeCells, fake_cache

NO_DRAFTS: Mapping[Sequence, list[int]] = {}
SYSTEM_PROMPTS: tuple[list[int], ...] = ([1] * 60, [2] * 40, [1] * 50 + [3] * 20, [4] * 10 + [-5] * 20, [])


class SchedulerMachine(RuleBasedStateMachine):
    """Many clients, random ends and failures, against a model of the cells."""

    @initialize(
        n_parallel=st.integers(1, 5),
        n_ctx=st.integers(100, 200),
        n_shares=st.floats(1, 5),
        n_batch=st.integers(5, 200),
        shares_cells=st.booleans(),
        kind=st.sampled_from(["plain", "plain", "window", "recurrent"]),
        ram_budget_bytes=st.sampled_from([0, 2000, 100_000]),
    )
    def start(
        self,
        n_parallel: int,
        n_ctx: int,
        n_shares: float,
        n_batch: int,
        shares_cells: bool,
        kind: str,
        ram_budget_bytes: int,
    ) -> None:
        n_cells = int(n_ctx * min(n_shares, n_parallel)) if shares_cells else n_ctx * n_parallel
        self.cells = FakeCells(n_cells, n_ctx, shares_cells, kind)
        self.cache = fake_cache(self.cells, n_parallel, ram_budget_bytes)
        self.scheduler = Scheduler(self.cache, n_ctx=n_ctx, n_batch=n_batch)
        self.n_parallel = n_parallel
        self.alive: list[Sequence] = []

    @rule(begin=st.sampled_from(SYSTEM_PROMPTS), n_more=st.integers(1, 60), max_tokens=st.integers(1, 40))
    def submit(self, begin: list[int], n_more: int, max_tokens: int) -> None:
        prompt = (begin + list(range(1000, 1000 + n_more)))[: self.scheduler.n_ctx - 1]
        self.ask(prompt, max_tokens)

    @rule(last=st.integers(50, 60), n_clients=st.integers(2, 6))
    def many_arrive_together(self, last: int, n_clients: int) -> None:
        for client in range(n_clients):
            self.ask([1] * last + [100 + client] * 20, 5)

    def ask(self, prompt: list[int], max_tokens: int) -> None:
        sequence = Sequence(list(prompt), len(prompt), max_tokens)
        self.alive.append(sequence)
        self.scheduler.submit(sequence)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def client_leaves(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(self.alive)))

    @rule(prompt_budget=st.integers(1, 200), fails=st.sampled_from(["", "", "", "", "full", "fatal", "copies"]))
    def step(self, prompt_budget: int, fails: str) -> None:
        self.run_step(prompt_budget, fails=fails)

    @rule(n_drafted=st.lists(st.integers(0, 15), min_size=5, max_size=5), n_true=st.integers(0, 15))
    def step_with_guesses(self, n_drafted: list[int], n_true: int) -> None:
        """The first `n_true` of each draft come true. A memory that cannot be cut then loses the sequence's cells."""
        drafts = {}
        for sequence, n_tokens in zip(self.scheduler.running, n_drafted, strict=False):
            n_left = min(sequence.max_tokens - sequence.n_generated_tokens, self.scheduler.n_ctx - len(sequence.tokens))
            drafts[sequence] = [7000] * n_true + [7001] * 15
            del drafts[sequence][min(n_tokens, n_left - 1) :]
        self.run_step(64, drafts=drafts)

    @rule(begin=st.sampled_from(SYSTEM_PROMPTS), n_more=st.integers(1, 60))
    def find_finds_the_longest_beginning_that_can_be_kept(self, begin: list[int], n_more: int) -> None:
        prompt = begin + list(range(1000, 1000 + n_more))
        kept = [0]
        for seq_id in self.cells.rows:
            n_common = min(common_prefix(self.cells.tokens(seq_id), prompt), len(prompt) - 1)
            n_common = outside_images(prompt, n_common)
            is_running = seq_id in [sequence.seq_id for sequence in self.scheduler.running]
            can = self.cells.can_fork if is_running else self.cells.can_keep
            if n_common >= MIN_REUSE_TOKENS and can(seq_id, n_common):
                kept.append(n_common)
        match = self.cache.find(prompt)
        if match.spilled is None:
            assert match.n_tokens == max(kept)
        else:
            assert match.n_tokens >= max(kept) + MIN_REUSE_TOKENS

    @rule()
    def everybody_is_answered_in_the_end(self) -> None:
        for _ in range(60 * (len(self.alive) + 1) * (self.scheduler.n_ctx // self.scheduler.n_batch + 1)):
            if not self.scheduler.has_work:
                break
            assert self.run_step(64), "there is work and nothing was planned"
        assert not self.scheduler.has_work
        assert not self.alive

    def run_step(
        self, prompt_budget: int, *, fails: str = "", drafts: Mapping[Sequence, list[int]] = NO_DRAFTS
    ) -> list[Piece]:
        self.cells.refuses = fails == "copies"
        pieces = self.scheduler.plan(prompt_budget, drafts)
        self.cells.refuses = False
        self.check(pieces)
        if fails == "full" and pieces:
            n_running = len(self.scheduler.running)
            assert self.scheduler.make_room() or n_running == 1
        elif fails == "fatal" and pieces:
            for sequence in self.scheduler.clear():
                self.alive.remove(sequence)
                sequence.seq_id = None
        else:
            self.compute(pieces)
        return pieces

    def check(self, pieces: list[Piece]) -> None:
        running = self.scheduler.running
        assert bool(pieces) == self.scheduler.has_work
        assert [piece.seq_id for piece in pieces] == sorted({piece.seq_id for piece in pieces})
        assert sum(piece.n_rows for piece in pieces) <= self.scheduler.n_batch
        assert all(piece.n_tokens > 0 for piece in pieces)
        assert all(piece.sequence.is_decoding and piece.n_tokens == 1 for piece in pieces if piece.draft)
        computed = [piece.sequence for piece in pieces]
        assert all(sequence in computed for sequence in running if sequence.is_decoding)
        for sequence in running:
            assert sequence.seq_id is not None
            assert self.cells.tokens(sequence.seq_id) == sequence.tokens[: sequence.n_past]
            assert sequence.n_past < len(sequence.tokens), "the last token is computed for its logits"
            assert sequence.n_reused_tokens == 0 or sequence.n_reused_tokens >= MIN_REUSE_TOKENS

    def compute(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            assert self.cells.n_tokens(piece.seq_id) == piece.start
            tokens = piece.sequence.tokens[piece.start : piece.start + piece.n_tokens]
            self.cells.compute(piece.seq_id, [*tokens, *piece.draft])
        draft_of = {piece.sequence: piece.draft for piece in pieces}
        for sequence in list(self.scheduler.settle(pieces)):
            if draft := draft_of[sequence]:
                sequence.tokens += [7000] * draft.count(7000)
            sequence.tokens.append(5000 + len(sequence.tokens))
            if draft:
                kept = self.scheduler.accept(sequence, draft.count(7000))
                assert kept or not self.cells.cuts_anywhere
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
    def cells_are_counted_exactly(self) -> None:
        self.cache.check()
        assert self.cache.n_cells_used == self.cells.n_used <= self.cells.n_cells


SchedulerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestScheduler = SchedulerMachine.TestCase


def cells(n_ctx: int = 200, n_parallel: int = 4, **how: bool | str) -> FakeCells:
    return FakeCells(n_ctx * n_parallel, n_ctx, **how)  # type: ignore[arg-type]


def scheduler(n_parallel: int = 4, n_ctx: int = 200, n_cells: int = 800, n_batch: int = 100) -> Scheduler:
    cache = fake_cache(FakeCells(n_cells, n_ctx, shares_cells=n_cells < n_ctx * n_parallel), n_parallel)
    return Scheduler(cache, n_ctx=n_ctx, n_batch=n_batch)


def asked(prompt: list[int], max_tokens: int = 50) -> Sequence:
    return Sequence(list(prompt), len(prompt), max_tokens)


def advance(scheduler: Scheduler, budget: int = 1000) -> list[Piece]:
    pieces = scheduler.plan(budget)
    fake = scheduler.cache._cells
    assert isinstance(fake, FakeCells)
    for piece in pieces:
        fake.compute(piece.seq_id, piece.sequence.tokens[piece.start : piece.start + piece.n_tokens])
    for sequence in scheduler.settle(pieces):
        sequence.tokens.append(9)
    return pieces


def sizes(pieces: list[Piece]) -> dict[Sequence, int]:
    return {piece.sequence: piece.n_tokens for piece in pieces}


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
    assert sizes(advance(one)) == {older: 80, newer: 20}


def test_shorter_prompt_goes_before_a_longer_that_came_with_it() -> None:
    one = scheduler(n_batch=50)
    longer, shorter = asked([1] * 80), asked([2] * 40)
    one.submit(longer)
    one.submit(shorter)
    assert sizes(advance(one)) == {shorter: 40, longer: 10}


def test_short_prompt_overtakes_a_long_one_that_is_being_computed() -> None:
    one = scheduler(n_batch=30)
    longer, shorter = asked([1] * 150), asked([2] * 20)
    one.submit(longer)
    advance(one)
    one.submit(shorter)
    assert sizes(advance(one)) == {shorter: 20, longer: 10}


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


def rated_in(scheduler: Scheduler, pieces: list[Piece]) -> dict[Sequence, list[int]]:
    """Prompt tokens that a step rates; settles it."""
    fake = scheduler.cache._cells
    assert isinstance(fake, FakeCells)
    rated: dict[Sequence, list[int]] = {}
    for piece in pieces:
        fake.compute(piece.seq_id, piece.sequence.tokens[piece.start : piece.start + piece.n_tokens])
        if piece.sequence.score_from is not None:
            logits = np.zeros((piece.n_outputs, 200), np.float32)
            rated[piece.sequence] = [one.token for one in score(piece, logits, 0)]
    for sequence in scheduler.settle(pieces):
        sequence.tokens.append(9)
    return rated


def scored(prompt: list[int]) -> Sequence:
    return Sequence(list(prompt), len(prompt), 5, score_from=0)


def test_prompts_that_are_scored_share_the_rows_there_are_and_each_token_is_rated_once() -> None:
    one = scheduler()
    plain, first, second = asked([1] * 30), scored(list(range(60))), scored(list(range(100, 140)))
    for sequence in (plain, first, second):
        one.submit(sequence)
    rated: dict[Sequence, list[int]] = {first: [], second: []}
    while first.score_from is not None or second.score_from is not None:
        pieces = one.plan(1000)
        assert sum(piece.n_outputs for piece in pieces if piece.sequence.score_from is not None) <= one.n_score_rows
        assert all(piece.n_outputs == int(piece.wants_logits) for piece in pieces if piece.sequence is plain)
        for sequence, tokens in rated_in(one, pieces).items():
            rated[sequence] += tokens
    assert rated == {first: list(range(60)), second: list(range(100, 140))}
    assert first.n_reused_tokens == second.n_reused_tokens == 0


def test_what_is_found_of_a_prompt_that_is_scored_is_computed_again() -> None:
    one = scheduler()
    before, again = asked(list(range(60))), scored(list(range(60)))
    one.submit(before)
    advance(one)
    one.release(before)
    one.submit(again)
    assert sizes(one.plan(1000)) == {again: one.n_score_rows}
    assert again.n_past == 0


def test_prompt_that_lost_its_cells_is_rated_on_from_where_it_was() -> None:
    one = scheduler()
    older, younger = asked([1] * 20), scored(list(range(20)))
    one.submit(older)
    one.submit(younger)
    rated = rated_in(one, one.plan(1000))[younger]
    while one.cache.evict():
        pass
    assert one.make_room()
    assert younger.seq_id is None
    for _ in range(9):
        rated += rated_in(one, one.plan(1000)).get(younger, [])
    assert rated == list(range(20))


def answering(one: Scheduler, *prompts: list[int]) -> list[Sequence]:
    sequences = [asked(prompt) for prompt in prompts]
    for sequence in sequences:
        one.submit(sequence)
    while not all(sequence.is_decoding for sequence in sequences):
        advance(one)
    return sequences


def test_guesses_that_came_true_stay_in_the_cells_and_the_others_go() -> None:
    one = scheduler()
    (sequence,) = answering(one, [1] * 20)
    n_before = sequence.n_past
    (piece,) = one.plan(100, {sequence: [5, 6, 7, 8]})
    assert (piece.n_tokens, piece.draft, piece.n_rows, piece.n_outputs) == (1, (5, 6, 7, 8), 5, 5)
    fake = one.cache._cells
    assert isinstance(fake, FakeCells)
    fake.compute(piece.seq_id, [*sequence.tokens[-1:], *piece.draft])
    assert list(one.settle([piece])) == [sequence]
    sequence.tokens += [5, 6, 9]
    assert one.accept(sequence, 2)
    assert sequence.n_past == n_before + 3
    assert sequence.is_decoding
    assert fake.tokens(piece.seq_id) == sequence.tokens[:-1]
    one.cache.check()


def test_guesses_take_no_room_that_a_prompt_needs() -> None:
    one = scheduler(n_parallel=2, n_ctx=100, n_cells=100, n_batch=100)
    (first,) = answering(one, [1] * 20)
    second = asked([2] * 70)
    one.submit(second)
    pieces = one.plan(100, {first: [5] * 15})
    assert sizes(pieces) == {first: 1, second: 70}
    assert sum(piece.n_rows for piece in pieces) <= 100 - first.n_past
