from __future__ import annotations

from collections.abc import Mapping

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backends.llamacpp.prefix_cache import MIN_REUSE_TOKENS
from backends.llamacpp.prefix_tree import common_prefix, outside_images
from backends.llamacpp.scheduler import Scheduler
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
