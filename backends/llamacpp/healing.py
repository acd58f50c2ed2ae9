"""Going on behind a text that was cut where the model's own tokens need not have ended.

A text that is read again is not always the tokens it was written in: two line ends may have become one token, or a
blank may have been the beginning of a token that also held half a character. The difference lies in the last token.
So that one is left out of the prompt, and the model says its bytes again, in whatever tokens it likes: until they are
all there, only tokens that agree with them may come. They are not shown a second time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]


class PieceTable:
    """Tokens in the order of their bytes, to find those that agree with a text. Never changes."""

    def __init__(self, pieces: Iterable[tuple[int, bytes]]) -> None:
        """`pieces`: (token, its bytes) of every token that may take part; those without bytes are left out."""
        in_order = sorted((piece, token) for token, piece in pieces if piece)
        self._pieces = [piece for piece, _ in in_order]
        self._tokens = np.fromiter((token for _, token in in_order), np.int64, len(in_order))

    def agreeing(self, rest: bytes) -> Int64Array:
        """Tokens that begin with `rest`, and those that `rest` begins with if others can say what is then left."""
        can_say = self._sayable_ends(rest)
        found = [self._beginning_with(rest)]
        found += [self._equal(rest[:size]) for size in range(1, len(rest)) if can_say[size]]
        return np.concatenate([self._tokens[rows] for rows in found])

    def beginning_with(self, text: bytes) -> list[tuple[int, bytes]]:
        """(token, its bytes) of all that begin with `text`."""
        rows = self._beginning_with(text)
        return list(zip(self._tokens[rows].tolist(), self._pieces[rows], strict=True))

    def _sayable_ends(self, text: bytes) -> list[bool]:
        """For every position whether tokens, one after another, can say `text` from there on."""
        can_say = [False] * len(text) + [True]
        for start in reversed(range(len(text))):
            can_say[start] = _any(self._beginning_with(text[start:])) or any(
                can_say[end] and _any(self._equal(text[start:end])) for end in range(start + 1, len(text))
            )
        return can_say

    def _beginning_with(self, text: bytes) -> slice:
        start = bisect_left(self._pieces, text)
        return slice(start, bisect_right(self._pieces, text, start, key=lambda piece: piece[: len(text)]))

    def _equal(self, text: bytes) -> slice:
        start = bisect_left(self._pieces, text)
        return slice(start, bisect_right(self._pieces, text, start))


def _any(rows: slice) -> bool:
    return bool(rows.start < rows.stop)


@dataclass(frozen=True, slots=True)
class Healing:
    """The bytes of a prompt's last token, which is left out; every choice says them again on its own."""

    dropped: bytes
    table: PieceTable

    def begin(self) -> Seam:
        return Seam(self.table, self.dropped)


class Seam:
    """The bytes that one sequence still has to say again: `rest`, never empty while there is a seam."""

    def __init__(self, table: PieceTable, dropped: bytes) -> None:
        self._table = table
        self.rest = dropped

    def allowed(self) -> Int64Array:
        """Tokens that may come next. There is always one: at first the one that was left out."""
        return self._table.agreeing(self.rest)

    def take(self, piece: bytes) -> bytes:
        """Note the bytes of an allowed token; returns those that go beyond the seam."""
        new = piece[len(self.rest) :]
        self.rest = self.rest[len(piece) :]
        return new
