"""A radix tree over tokens: which holders have which beginnings, and how many cells that takes.

A holder is a number: a `seq_id`, or a state kept in RAM. Every holder of a node holds all of the node's tokens, so a
node is cut where holders part. Holders that share the cells of a node count once there: each holder has a copy of a
node's cells, and those that were forked from it have the same copy.

    root ── "You are a nurse." {0, 1, 2; copies 0 0 2} ─┬─ "Ann has" {0; 0}
                                                        └─ "Bob is" {1, 2; 1 2}

A negative token stands for a piece of an image. A run of them is one thing: a common beginning never ends inside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator


class _Node:
    __slots__ = ("children", "copies", "parent", "tokens")

    def __init__(self, tokens: list[int], parent: _Node | None, copies: dict[int, int]) -> None:
        self.tokens = tokens
        self.parent = parent
        self.copies = copies  # of every holder: which copy of the cells is its own
        self.children: dict[int, _Node] = {}

    @property
    def n_copies(self) -> int:
        return len(set(self.copies.values()))

    @property
    def n_cells(self) -> int:
        return len(self.tokens) * self.n_copies


class PrefixTree:
    """`n_cells` is exact at any time: the sum over all nodes of tokens times copies."""

    def __init__(self) -> None:
        self._root = _Node([], None, {})
        self._ends: dict[int, _Node] = {}
        self._n_tokens: dict[int, int] = {}
        self._copy_of: dict[int, int] = {}  # the copy that a holder's newly computed cells belong to
        self._copies = itertools.count()
        self.n_cells = 0

    def __contains__(self, holder: int) -> bool:
        return holder in self._ends

    def __len__(self) -> int:
        return len(self._ends)

    def n_tokens(self, holder: int) -> int:
        return self._n_tokens.get(holder, 0)

    def tokens(self, holder: int) -> list[int]:
        return [token for node in reversed(list(self._path(holder))) for token in node.tokens]

    def n_exclusive_cells(self, holder: int, *, behind: int = 0) -> int:
        """Cells that are free when the holder is cut to `behind` tokens."""
        n_cells, end = 0, self._n_tokens[holder]
        for node in self._path(holder):
            if end <= behind:
                break
            if self._is_alone(node, holder):
                n_cells += min(len(node.tokens), end - behind)
            end -= len(node.tokens)
        return n_cells

    def n_cells_of(self, holders: set[int]) -> int:
        """Cells that some holders have, those they share counted once."""
        nodes = {id(node): node for holder in holders if holder in self._ends for node in self._path(holder)}
        return sum(
            len(node.tokens) * len({copy for holder, copy in node.copies.items() if holder in holders})
            for node in nodes.values()
        )

    def n_own_tokens(self, holder: int) -> int:
        """Tokens at a holder's end that nobody else has behind the same beginning."""
        return sum(len(node.tokens) for node in self._path(holder) if len(node.copies) == 1)

    def find(self, tokens: list[int]) -> Iterator[tuple[int, list[int]]]:
        """Common beginnings of `tokens` and what is held, longest first: (number of tokens, holders that have them)."""
        node, depth = self._root, 0
        found: list[tuple[int, _Node]] = []
        while depth < len(tokens) and (child := node.children.get(tokens[depth])) is not None:
            n_common = _n_common(child.tokens, tokens, depth)
            depth += n_common
            found.append((depth, child))
            if n_common < len(child.tokens):
                break
            node = child
        for n_tokens, node in reversed(found):
            yield n_tokens, list(node.copies)

    def add(self, holder: int) -> None:
        """A holder of nothing yet."""
        if holder in self._ends:
            raise ValueError(f"{holder} holds something already")
        self._ends[holder] = self._root
        self._n_tokens[holder] = 0
        self._copy_of[holder] = next(self._copies)

    def fork(self, source: int, holder: int, n_tokens: int, *, shares_cells: bool) -> None:
        """A new holder of the first `n_tokens` of `source`: of the same cells, or of a copy of them."""
        self.add(holder)
        end = self._cut(source, n_tokens)
        self._ends[holder] = end
        self._n_tokens[holder] = n_tokens
        node: _Node | None = end
        while node is not None and node is not self._root:
            self.n_cells -= node.n_cells
            node.copies[holder] = node.copies[source] if shares_cells else self._copy_of[holder]
            self.n_cells += node.n_cells
            node = node.parent

    def extend(self, holder: int, tokens: list[int]) -> None:
        """More tokens behind what is held already, newly computed: cells of its own."""
        node, start = self._ends[holder], 0
        self._n_tokens[holder] += len(tokens)
        self.n_cells += len(tokens)
        while start < len(tokens):
            if len(node.copies) == 1 and not node.children and node is not self._root:
                node.tokens += tokens[start:]
                break
            child = node.children.get(tokens[start])
            if child is None:
                child = _Node(tokens[start:], node, {})
                node.children[tokens[start]] = child
            n_common = _n_common(child.tokens, tokens, start)
            self._split(child, n_common)
            child.copies[holder] = self._copy_of[holder]
            node, start = child, start + n_common
        self._ends[holder] = node

    def truncate(self, holder: int, n_tokens: int) -> None:
        """Keep only the first `n_tokens`."""
        keep = self._cut(holder, n_tokens)
        node = self._ends[holder]
        while node is not keep and node.parent is not None:
            node = self._leave(node, holder)
        self._ends[holder] = keep
        self._n_tokens[holder] = n_tokens
        self._copy_of[holder] = next(self._copies)  # what it computes there again is not what others were given
        self._merge(keep)

    def remove(self, holder: int) -> None:
        if holder in self._ends:
            self.truncate(holder, 0)
            del self._ends[holder], self._n_tokens[holder], self._copy_of[holder]

    def _path(self, holder: int) -> Iterator[_Node]:
        """From its end to the root, which is left out."""
        node: _Node | None = self._ends[holder]
        while node is not None and node is not self._root:
            yield node
            node = node.parent

    @staticmethod
    def _is_alone(node: _Node, holder: int) -> bool:
        copy = node.copies[holder]
        return all(other == holder or its != copy for other, its in node.copies.items())

    def _cut(self, holder: int, n_tokens: int) -> _Node:
        """The node that ends `n_tokens` behind the root on a holder's path, made by cutting one in two if need be."""
        if not 0 <= n_tokens <= self._n_tokens[holder]:
            raise ValueError(f"{n_tokens} of {self._n_tokens[holder]} tokens")
        start = self._n_tokens[holder]
        for node in self._path(holder):
            start -= len(node.tokens)
            if start < n_tokens:
                self._split(node, n_tokens - start)
                return node
        return self._root

    def _split(self, node: _Node, n_tokens: int) -> None:
        """Leave a node its first `n_tokens`; the rest goes into a child that has all its holders."""
        if n_tokens == len(node.tokens):
            return
        rest = _Node(node.tokens[n_tokens:], node, dict(node.copies))
        rest.children = node.children
        for child in rest.children.values():
            child.parent = rest
        del node.tokens[n_tokens:]
        node.children = {rest.tokens[0]: rest}
        for holder in rest.copies:
            if self._ends[holder] is node:
                self._ends[holder] = rest

    def _leave(self, node: _Node, holder: int) -> _Node:
        """Take a holder out of a node; returns the node's parent."""
        parent = node.parent
        if parent is None:
            raise ValueError("everybody is in the root")
        self.n_cells -= node.n_cells
        del node.copies[holder]
        self.n_cells += node.n_cells
        if not node.copies:
            del parent.children[node.tokens[0]]
        else:
            self._merge(node)
        return parent

    def _merge(self, node: _Node) -> None:
        """Undo cuts that nobody needs any more: join a node with an only child of the same holders."""
        while node is not self._root and len(node.children) == 1:
            (child,) = node.children.values()
            if not _are_shared_alike(node.copies, child.copies):
                return
            node.tokens += child.tokens
            node.children = child.children
            for grandchild in node.children.values():
                grandchild.parent = node
            for holder in node.copies:
                if self._ends[holder] is child:
                    self._ends[holder] = node

    def check(self) -> None:
        """Raises `ValueError` where the tree contradicts itself."""
        n_cells, ends = 0, dict.fromkeys(self._ends, 0)
        todo = [self._root]
        while todo:
            node = todo.pop()
            n_cells += node.n_cells
            for holder in node.copies:
                ends[holder] += len(node.tokens)
            for first, child in node.children.items():
                if not child.copies or not child.tokens or child.tokens[0] != first or child.parent is not node:
                    raise ValueError("a node is out of place")
                if node is not self._root and not child.copies.keys() <= node.copies.keys():
                    raise ValueError("a holder of a node does not hold what comes before it")
                todo.append(child)
        if n_cells != self.n_cells:
            raise ValueError(f"{self.n_cells} cells were counted, {n_cells} are held")
        if ends != self._n_tokens:
            raise ValueError(f"lengths {self._n_tokens} were noted, {ends} are held")


def _n_common(run: list[int], tokens: list[int], start: int) -> int:
    """How far `run` agrees with `tokens` from `start` on."""
    limit = min(len(run), len(tokens) - start)
    if run[:limit] == tokens[start : start + limit]:
        return limit
    low, high = 0, limit  # run[:low] agrees, run[:high] does not
    while high - low > 1:
        middle = (low + high) // 2
        if run[low:middle] == tokens[start + low : start + middle]:
            low = middle
        else:
            high = middle
    return low


def _are_shared_alike(a: dict[int, int], b: dict[int, int]) -> bool:
    """Whether the same holders have copies, and the same of them have one together."""
    if a.keys() != b.keys():
        return False
    pairs = {(a[holder], b[holder]) for holder in a}
    return len(pairs) == len(set(a.values())) == len(set(b.values()))


def common_prefix(a: list[int], b: list[int]) -> int:
    """Number of leading tokens that two lists share."""
    return _n_common(a, b, 0)


def outside_images(tokens: list[int], n_tokens: int) -> int:
    """`n_tokens`, or where the run of image pieces begins that this would cut in two."""
    if 0 < n_tokens < len(tokens) and tokens[n_tokens] < 0:
        while n_tokens > 0 and tokens[n_tokens - 1] < 0:
            n_tokens -= 1
    return n_tokens
