"""Sequence states that had to leave the KV cache, kept in RAM within a budget; the least recently used go first."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from backends.llamacpp.cells import State
from backends.llamacpp.prefix_tree import PrefixTree, outside_images


@dataclass(slots=True)
class SpilledStates:
    """`budget_bytes` 0: nothing is kept. `only_whole`: a state is of use only where all of its tokens are wanted."""

    budget_bytes: int
    only_whole: bool = False
    n_bytes: int = 0
    _states: OrderedDict[int, State] = field(default_factory=OrderedDict)  # least recently used first
    _tree: PrefixTree = field(default_factory=PrefixTree)
    _keys: itertools.count[int] = field(default_factory=itertools.count)

    def __len__(self) -> int:
        return len(self._states)

    def find(self, tokens: list[int], max_tokens: int) -> tuple[int, int | None]:
        """The longest common beginning of `tokens` and a state: (number of tokens, key)."""
        for n_common, keys in self._tree.find(tokens):
            n_tokens = outside_images(tokens, min(n_common, max_tokens))
            usable = [key for key in keys if not self.only_whole or self._tree.n_tokens(key) == n_tokens]
            if usable:
                return n_tokens, usable[0]
        return 0, None

    def n_tokens(self, key: int) -> int:
        """0 for a state that has gone."""
        return self._tree.n_tokens(key)

    def tokens(self, key: int) -> list[int]:
        return self._tree.tokens(key)

    def can_keep(self, n_bytes: int) -> bool:
        return 0 < n_bytes <= self.budget_bytes

    def keep(self, tokens: list[int], n_bytes: int, save: Callable[[], State | None]) -> bool:
        """Have a state of `n_bytes` saved after making room for it."""
        if not self.can_keep(n_bytes):
            return False
        for key in self._superseded_by(tokens):
            self.forget(key)
        while self.n_bytes + n_bytes > self.budget_bytes:
            self.forget(next(iter(self._states)))
        state = save()
        if state is None:
            return False
        key = next(self._keys)
        self._states[key] = state
        self.n_bytes += state.nbytes
        self._tree.add(key)
        self._tree.extend(key, tokens)
        return True

    def has(self, tokens: list[int]) -> bool:
        """Whether a state has all of these tokens, so that nothing would be won by keeping them once more."""
        n_tokens, key = self.find(tokens, len(tokens))
        return key is not None and n_tokens == len(tokens)

    def use(self, key: int) -> State:
        self._states.move_to_end(key)
        return self._states[key]

    def forget(self, key: int) -> None:
        """Nothing happens where it has gone already."""
        state = self._states.pop(key, None)
        if state is not None:
            self.n_bytes -= state.nbytes
            self._tree.remove(key)

    def _superseded_by(self, tokens: list[int]) -> list[int]:
        """States of which `tokens` has everything and more; a state that cannot be cut is not replaced by a longer."""
        if self.only_whole:
            return []
        return [
            key
            for n_tokens, keys in list(self._tree.find(tokens))
            for key in keys
            if self._tree.n_tokens(key) == n_tokens
        ]

    def check(self) -> None:
        """Raises `ValueError` where what is kept is not what was counted."""
        self._tree.check()
        n_bytes = sum(state.nbytes for state in self._states.values())
        if n_bytes != self.n_bytes or n_bytes > self.budget_bytes or len(self._tree) != len(self._states):
            raise ValueError(f"{self.n_bytes} bytes in RAM were counted, {n_bytes} are held")
