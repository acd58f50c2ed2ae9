from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backends.llamacpp.prefix_tree import PrefixTree, common_prefix, outside_images

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=8)


class TreeMachine(RuleBasedStateMachine):
    """Holders that grow, fork, shrink and go, against rows of cells written down one by one."""

    @initialize(shares_cells=st.booleans())
    def start(self, shares_cells: bool) -> None:
        self.shares_cells = shares_cells
        self.tree = PrefixTree()
        self.rows: dict[int, list[tuple[int, int]]] = {}  # (cell, token)
        self.cells = itertools.count()
        self.names = itertools.count()

    def drawn(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.rows)))

    @rule()
    def add(self) -> None:
        holder = next(self.names)
        self.tree.add(holder)
        self.rows[holder] = []

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), tokens=TOKENS)
    def extend(self, data: st.DataObject, tokens: list[int]) -> None:
        holder = self.drawn(data)
        self.tree.extend(holder, tokens)
        self.rows[holder] += [(next(self.cells), token) for token in tokens]

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        source, holder = self.drawn(data), next(self.names)
        n_tokens = data.draw(st.integers(0, len(self.rows[source])))
        self.tree.fork(source, holder, n_tokens, shares_cells=self.shares_cells)
        row = self.rows[source][:n_tokens]
        self.rows[holder] = row if self.shares_cells else [(next(self.cells), token) for _, token in row]

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        holder = self.drawn(data)
        n_tokens = data.draw(st.integers(0, len(self.rows[holder])))
        self.tree.truncate(holder, n_tokens)
        self.rows[holder] = self.rows[holder][:n_tokens]

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        holder = self.drawn(data)
        self.tree.remove(holder)
        del self.rows[holder]

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def n_exclusive_cells_is_what_a_cut_frees(self, data: st.DataObject) -> None:
        holder = self.drawn(data)
        behind = data.draw(st.integers(0, len(self.rows[holder])))
        others = {cell for other, row in self.rows.items() if other != holder for cell, _ in row}
        freed = [cell for cell, _ in self.rows[holder][behind:] if cell not in others]
        assert self.tree.n_exclusive_cells(holder, behind=behind) == len(freed)

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def n_cells_of_some_are_those_they_have_together(self, data: st.DataObject) -> None:
        holders = data.draw(st.sets(st.sampled_from(sorted(self.rows))))
        held = {cell for holder in holders for cell, _ in self.rows[holder]}
        assert self.tree.n_cells_of(holders) == len(held)

    @rule(tokens=TOKENS)
    def find_yields_every_holder_with_its_longest_common_beginning(self, tokens: list[int]) -> None:
        found = list(self.tree.find(tokens))
        assert [n for n, _ in found] == sorted({n for n, _ in found}, reverse=True)
        longest: dict[int, int] = {}
        for n_tokens, holders in found:
            for holder in holders:
                longest.setdefault(holder, n_tokens)
        expected = {holder: common_prefix([token for _, token in row], tokens) for holder, row in self.rows.items()}
        assert longest == {holder: n for holder, n in expected.items() if n}

    @invariant()
    def tokens_and_cells_are_those_written_down(self) -> None:
        self.tree.check()
        for holder, row in self.rows.items():
            assert self.tree.tokens(holder) == [token for _, token in row]
            assert self.tree.n_tokens(holder) == len(row)
        assert self.tree.n_cells == len({cell for row in self.rows.values() for cell, _ in row})
        assert len(self.tree) == len(self.rows)


TreeMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30)
TestPrefixTree = TreeMachine.TestCase


def test_cuts_that_nobody_needs_any_more_are_undone() -> None:
    tree = PrefixTree()
    tree.add(0)
    tree.extend(0, list(range(1000)))
    for n_tokens in range(1, 1000):
        tree.fork(0, 1, n_tokens, shares_cells=True)
        tree.extend(1, [-5])
        tree.remove(1)
    assert len(list(tree.find(list(range(1000))))) == 1


def test_holder_cannot_be_added_twice_or_be_given_more_than_there_is() -> None:
    tree = PrefixTree()
    tree.add(0)
    with pytest.raises(ValueError, match="holds something"):
        tree.add(0)
    with pytest.raises(ValueError, match="5 of 0"):
        tree.truncate(0, 5)


@pytest.mark.parametrize(
    ("a", "b", "n"), [([], [], 0), ([1], [], 0), ([1, 2, 3], [1, 2, 4], 2), ([1, 2], [1, 2, 3], 2), ([2], [1], 0)]
)
def test_common_prefix_of_two_lists(a: list[int], b: list[int], n: int) -> None:
    assert common_prefix(a, b) == n


@pytest.mark.parametrize(("n_tokens", "n_kept"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 2), (5, 5), (6, 6)])
def test_beginning_never_ends_inside_an_image(n_tokens: int, n_kept: int) -> None:
    assert outside_images([1, 2, -7, -8, -9, 3], n_tokens) == n_kept
