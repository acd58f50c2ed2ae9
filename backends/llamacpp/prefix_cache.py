"""Which sequence of llama.cpp holds which tokens, who may have them, and who gives way.

A `seq_id` is running while somebody computes in it, else idle: its cells stay for others until their room is needed.
What a running one has computed is for others too. A new prompt takes the longest beginning that anybody holds:

    in place   the idle sequence goes on where the prompt parts from it; nothing behind that is lost
    fork       its first cells are given to another `seq_id`: shared in a common pool, copied between streams
    restore    an idle sequence that had to go was saved in RAM

Where each sequence has a stream of its own, llama.cpp computes a batch fastest when the running `seq_id`s follow each
other without a gap: so a new one takes the place beside them, and who was idle there goes to RAM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from backends.llamacpp.cells import Cells
from backends.llamacpp.prefix_tree import PrefixTree, outside_images
from backends.llamacpp.spilled import SpilledStates

MIN_REUSE_TOKENS: Final = 16
"""A shorter common beginning is computed again: copying it would take as long."""


@dataclass(frozen=True, slots=True)
class Match:
    """The beginning of a prompt that need not be computed. `n_new_cells`: what the whole prompt will take.

    `holders`: all who have it; `seq_id` is the best of them to take it from.
    """

    n_tokens: int
    n_new_cells: int
    seq_id: int | None = None
    spilled: int | None = None
    holders: frozenset[int] = frozenset()


@dataclass(slots=True)
class CacheStats:
    n_reused_tokens: int = 0
    n_forks: int = 0
    n_spills: int = 0
    n_restores: int = 0
    n_checks: int = 0


class PrefixCache:
    """`n_seqs` sequences over `n_cells` cells; each call costs what it copies."""

    def __init__(self, cells: Cells, *, n_seqs: int, n_cells: int, ram_budget_bytes: int = 0) -> None:
        self.stats = CacheStats()
        self._cells = cells
        self._n_seqs = n_seqs
        self._n_cells = n_cells
        self._tree = PrefixTree()
        self._spilled = SpilledStates(ram_budget_bytes, only_whole=not cells.cuts_anywhere)
        self._running: set[int] = set()
        self._used_at = [0] * n_seqs
        self._clock = 0

    @property
    def n_cells_used(self) -> int:
        return self._tree.n_cells

    @property
    def n_spilled_bytes(self) -> int:
        return self._spilled.n_bytes

    @property
    def cuts_anywhere(self) -> bool:
        return self._cells.cuts_anywhere

    @property
    def has_free_seq(self) -> bool:
        return len(self._running) < self._n_seqs

    @property
    def n_cells_left(self) -> int:
        return self._n_cells - self._tree.n_cells

    def can_take(self, n_cells: int) -> bool:
        """Whether a sequence can have so many cells more. Where each has a stream of its own, it always can."""
        return not self._cells.shares_cells or n_cells <= self.n_cells_left

    def could_take(self, n_cells: int, *, besides: int | None) -> bool:
        """Whether so many cells were free if everybody idle had gone, but for one."""
        staying = self._running if besides is None else self._running | {besides}
        return not self._cells.shares_cells or n_cells <= self._n_cells - self._tree.n_cells_of(staying)

    def n_cells_behind(self, match: Match) -> int:
        """Cells that are free when the matched sequence, idle, is cut where the match ends."""
        if match.seq_id is None or match.seq_id in self._running:
            return 0
        return self._tree.n_exclusive_cells(match.seq_id, behind=match.n_tokens)

    def find(self, tokens: list[int]) -> Match:
        """The longest beginning of a prompt that can be had; its last token is always computed, for its logits."""
        n_all = len(tokens)
        n_tokens, seq_id, holders = self._find_held(tokens)
        n_spilled, key = self._spilled.find(tokens, len(tokens) - 1)
        if key is not None and n_spilled >= n_tokens + MIN_REUSE_TOKENS:
            return Match(n_spilled, max(n_all, self._spilled.n_tokens(key)), spilled=key)
        is_free = seq_id is None or self._cells.forks_share_cells or self._is_whole(seq_id, n_tokens)
        return Match(n_tokens, n_all - n_tokens if is_free else n_all, seq_id, holders=holders)

    def _find_held(self, tokens: list[int]) -> tuple[int, int | None, frozenset[int]]:
        for n_common, holders in self._tree.find(tokens):
            n_tokens = outside_images(tokens, min(n_common, len(tokens) - 1))
            if n_tokens < MIN_REUSE_TOKENS:
                break
            usable = [seq_id for seq_id in holders if self._is_usable(seq_id, n_tokens)]
            if usable:
                # One that can be gone on with in place first, then who was used last: it has the longest to live.
                best = max(usable, key=lambda i: (self._is_whole(i, n_tokens), self._used_at[i], -i))
                return n_tokens, best, frozenset(usable)
        return 0, None, frozenset()

    def _is_usable(self, seq_id: int, n_tokens: int) -> bool:
        if self._cells.can_fork(seq_id, n_tokens):
            return True
        return seq_id not in self._running and self._cells.can_keep(seq_id, n_tokens)

    def _is_whole(self, seq_id: int, n_tokens: int) -> bool:
        return seq_id not in self._running and self._tree.n_tokens(seq_id) == n_tokens

    def claim(self, match: Match, *, in_place: bool = False) -> tuple[int, int]:
        """Begin on what was found; returns (seq_id, tokens that are there). `in_place`: there is no room for more."""
        if not self.has_free_seq:
            raise ValueError("every sequence is running")
        source = match.seq_id
        target = source if in_place and source is not None else self._target(match)
        if source is not None:
            self._touch(source)
        if target in match.holders and self._cells.can_keep(target, match.n_tokens):
            source = target  # it would give way to a copy of what it has itself
        if target == source:
            n_tokens = self._go_on(target, match.n_tokens)
        elif source is not None:
            n_tokens = self._fork(source, target, match.n_tokens)
        elif match.spilled is not None:
            n_tokens = self._restore(match.spilled, target, match.n_tokens)
        else:
            n_tokens = self._begin(target)
        self._running.add(target)
        self._touch(target)
        self.stats.n_reused_tokens += n_tokens
        return target, n_tokens

    def extend(self, seq_id: int, tokens: list[int]) -> None:
        """Tokens were computed."""
        self._tree.extend(seq_id, tokens)

    def cut_behind(self, seq_id: int) -> bool:
        """Free what was computed behind the tokens that are noted. False: the sequence has lost them all."""
        if self._cells.keep_prefix(seq_id, self._tree.n_tokens(seq_id)):
            return True
        self._tree.truncate(seq_id, 0)
        return False

    def release(self, seq_id: int) -> None:
        """Nobody computes here any more; the cells stay until they are needed."""
        self._running.remove(seq_id)
        self._touch(seq_id)
        if not self._tree.n_tokens(seq_id):
            self._drop(seq_id)

    @property
    def has_gap(self) -> bool:
        """Whether a stream that nobody runs in lies between running ones, which costs speed."""
        running = self._running
        return not self._cells.shares_cells and bool(running) and max(running) - min(running) >= len(running)

    def close_gap(self) -> tuple[int, int] | None:
        """Move the last running sequence into the first gap; returns (from, to) where that could be done."""
        source = max(self._running)
        target = next(i for i in range(min(self._running), source) if i not in self._running)
        n_tokens = self._tree.n_tokens(source)
        would_lose = target in self._tree and not self._spilled.budget_bytes
        if would_lose or not self._cells.can_fork(source, n_tokens):
            return None
        self.displace(target)
        if not self._cells.fork(source, target, n_tokens):
            return None
        self._tree.fork(source, target, n_tokens, shares_cells=False)
        self._running.remove(source)
        self._running.add(target)
        self._drop(source)
        self._touch(target)
        self.stats.n_forks += 1
        return source, target

    def evict(self, *, besides: int | None = None) -> bool:
        """Free the cells of the idle sequence that was used longest ago, one that has cells of its own if any has."""
        idle = [i for i in range(self._n_seqs) if i in self._tree and i not in self._running and i != besides]
        if not idle:
            return False
        self.displace(min(idle, key=lambda i: (not self._tree.n_exclusive_cells(i), self._used_at[i])))
        return True

    def displace(self, seq_id: int) -> None:
        """Free an idle sequence's cells, and keep what they hold in RAM if there is room for it."""
        if seq_id in self._tree:
            self._spill(seq_id)
            self._drop(seq_id)

    def clear(self) -> None:
        """Nothing in the cells can be relied on any more. What is in RAM can."""
        self._running.clear()
        for seq_id in range(self._n_seqs):
            self._drop(seq_id)

    def _target(self, match: Match) -> int:
        """The free sequence to begin in."""
        free = [i for i in range(self._n_seqs) if i not in self._running]
        source = match.seq_id
        if source is not None and not self._cells.can_fork(source, match.n_tokens):
            return source
        in_place = source if source is not None and self._is_whole(source, match.n_tokens) else None
        if not self._cells.shares_cells and self._running:
            beside = self._beside_running(free)
            if in_place is None or beside not in self._tree or self._spilled.budget_bytes:
                return beside
        if in_place is not None:
            return in_place
        return min(free, key=lambda i: (i in self._tree, self._used_at[i] if i in self._tree else i))

    def _beside_running(self, free: list[int]) -> int:
        """The free sequence that leaves the fewest gaps: in between, else next to the running ones."""
        low, high = min(self._running), max(self._running)
        inside = [i for i in free if low < i < high]
        if inside:
            return inside[0]
        next_to = [i for i in (low - 1, high + 1) if 0 <= i < self._n_seqs]
        return min(next_to, key=lambda i: (i in self._tree, self._used_at[i]))

    def _begin(self, target: int) -> int:
        self.displace(target)
        self._tree.add(target)
        return 0

    def _go_on(self, seq_id: int, n_tokens: int) -> int:
        if n_tokens < self._tree.n_tokens(seq_id):
            self._spill(seq_id)
        if not self._cells.keep_prefix(seq_id, n_tokens):
            n_tokens = 0
        self._tree.truncate(seq_id, n_tokens)
        return n_tokens

    def _fork(self, source: int, target: int, n_tokens: int) -> int:
        self.displace(target)
        if source in self._running and not self.cuts_anywhere:
            self._spill(source)  # it is about to move on from here, where later ones may want to begin as well
        if not self._cells.fork(source, target, n_tokens):
            return self._begin(target)
        self._tree.fork(source, target, n_tokens, shares_cells=self._cells.forks_share_cells)
        self.stats.n_forks += 1
        return n_tokens

    def _restore(self, key: int, target: int, n_tokens: int) -> int:
        """Put back what was saved. It may have gone since it was found: other states needed its room."""
        n_saved = self._spilled.n_tokens(key)
        if not n_saved:
            return self._begin(target)
        state, tokens = self._spilled.use(key), self._spilled.tokens(key)[:n_tokens]
        self.displace(target)
        while not self.can_take(n_saved) and self.evict():
            pass
        restored = self.can_take(n_saved) and self._cells.restore(target, state)
        if not restored or not self._cells.keep_prefix(target, n_tokens):
            return self._begin(target)
        self._tree.add(target)
        self._tree.extend(target, tokens)
        if n_tokens == n_saved and self.cuts_anywhere:
            self._spilled.forget(key)  # all of it can be had from the sequence now, wherever others part from it
        self.stats.n_restores += 1
        return n_tokens

    def _spill(self, seq_id: int) -> None:
        """Save a sequence where that is worth it: for long enough an end that nobody else has."""
        if self._tree.n_tokens(seq_id) < MIN_REUSE_TOKENS or not self._spilled.budget_bytes:
            return
        if self.cuts_anywhere and self._tree.n_own_tokens(seq_id) < MIN_REUSE_TOKENS:
            return
        tokens = self._tree.tokens(seq_id)
        if self._spilled.has(tokens):
            return
        n_bytes = self._cells.state_size(seq_id)
        if self._spilled.keep(tokens, n_bytes, lambda: self._cells.save(seq_id)):
            self.stats.n_spills += 1

    def _drop(self, seq_id: int) -> None:
        self._cells.forget(seq_id)
        self._tree.remove(seq_id)

    def _touch(self, seq_id: int) -> None:
        self._clock += 1
        self._used_at[seq_id] = self._clock

    def check(self) -> None:
        """Raises `ValueError` where tree, counters and llama.cpp contradict each other."""
        self._tree.check()
        self._spilled.check()
        if self._cells.shares_cells and self._tree.n_cells > self._n_cells:
            raise ValueError(f"{self._tree.n_cells} of {self._n_cells} cells are used")
        for seq_id in range(self._n_seqs):
            n_tokens = self._tree.n_tokens(seq_id)
            if self._cells.n_tokens(seq_id) != n_tokens:
                raise ValueError(f"sequence {seq_id}: {n_tokens} noted, {self._cells.n_tokens(seq_id)} in the cells")
            if n_tokens and self.cuts_anywhere and not self._cells.can_keep(seq_id, 1):
                raise ValueError(f"sequence {seq_id} has lost its beginning")
        self.stats.n_checks += 1
