"""A model of llama.cpp's memory for tests of what is decided about it: every cell is a thing of its own."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from backends.llamacpp.cells import State
from backends.llamacpp.prefix_cache import PrefixCache

WINDOW = 8


@dataclass(frozen=True, slots=True)
class Cell:
    number: int
    token: int


@dataclass(slots=True)
class FakeCells:
    """`kind`: `plain` attention, a sliding `window`, or a `recurrent` state. `refuses`: copies come to nothing."""

    n_cells: int
    n_ctx: int
    shares_cells: bool = True
    kind: str = "plain"
    refuses: bool = False
    rows: dict[int, list[Cell]] = field(default_factory=dict)
    computed: list[int] = field(default_factory=list)  # every token that was computed, in order
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _states: dict[int, list[int]] = field(default_factory=dict)

    @property
    def cuts_anywhere(self) -> bool:
        return self.kind == "plain"

    @property
    def forks_share_cells(self) -> bool:
        return self.shares_cells and self.kind != "window"

    @property
    def n_used(self) -> int:
        return len({cell.number for row in self.rows.values() for cell in row})

    def tokens(self, seq_id: int) -> list[int]:
        return [cell.token for cell in self.rows.get(seq_id, [])]

    def compute(self, seq_id: int, tokens: list[int]) -> None:
        self._write(seq_id, tokens)
        self.computed += tokens

    def _write(self, seq_id: int, tokens: list[int]) -> None:
        row = self.rows.setdefault(seq_id, [])
        row += [Cell(next(self._numbers), token) for token in tokens]
        assert len(row) <= self.n_ctx
        assert self.n_used <= self.n_cells, "more cells than there are"

    def can_keep(self, seq_id: int, n_tokens: int) -> bool:
        n_now = self.n_tokens(seq_id)
        if self.kind == "window":
            return n_tokens == n_now or n_now <= WINDOW
        return n_tokens <= n_now if self.kind == "plain" else n_tokens == n_now

    def keep_prefix(self, seq_id: int, n_tokens: int) -> bool:
        if self.refuses or not self.can_keep(seq_id, n_tokens):
            self.forget(seq_id)
            return n_tokens == 0
        del self.rows[seq_id][n_tokens:]
        return True

    def can_fork(self, source: int, n_tokens: int) -> bool:
        if self.shares_cells and self.kind == "window":
            return n_tokens == self.n_tokens(source)
        return self.can_keep(source, n_tokens)

    def fork(self, source: int, target: int, n_tokens: int) -> bool:
        assert not self.rows.get(target), "a fork needs a sequence that holds nothing"
        if self.refuses or not self.can_fork(source, n_tokens):
            return False
        row = self.rows[source][:n_tokens]
        if self.forks_share_cells:
            self.rows[target] = row
        else:
            self._write(target, [cell.token for cell in row])
        return True

    def forget(self, seq_id: int) -> None:
        self.rows.pop(seq_id, None)

    def n_tokens(self, seq_id: int) -> int:
        return len(self.rows.get(seq_id, []))

    def state_size(self, seq_id: int) -> int:
        return 10 * self.n_tokens(seq_id)

    def save(self, seq_id: int) -> State | None:
        if self.refuses:
            return None
        state: State = np.zeros(self.state_size(seq_id), np.uint8)
        self._states[id(state)] = self.tokens(seq_id)
        return state

    def restore(self, seq_id: int, state: State) -> bool:
        assert not self.rows.get(seq_id), "a state needs a sequence that holds nothing"
        tokens = self._states[id(state)]
        if self.refuses or (self.shares_cells and self.n_used + len(tokens) > self.n_cells):
            return False
        self._write(seq_id, tokens)
        return True


def fake_cache(cells: FakeCells, n_seqs: int = 4, ram_budget_bytes: int = 0) -> PrefixCache:
    return PrefixCache(cells, n_seqs=n_seqs, n_cells=cells.n_cells, ram_budget_bytes=ram_budget_bytes)
