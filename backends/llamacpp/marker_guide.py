"""A guide that begins behind a marker: an answer's shape behind its thought, a call's behind `<tool_call>`.

    phase     may come next                                        left by
    OPENING   what the inner guide allows, or the opening marker   the opening marker (FREE), anything else (BOUND)
    FREE      anything; the answer's end only if `may_end`         the closing marker
    BLANK     what the inner guide allows, or blanks               anything but blanks, or enough of them
    BOUND     what the inner guide allows                          its end, where there may be another marker (FREE)

Markers are found in the answer's bytes, however they are cut into tokens. A token that ends one and goes on is taken
where blanks follow; those that say more are not let come, for what follows has not been asked for yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np
import numpy.typing as npt

from backends.llamacpp.guide import Float32Array, Guide, MakeGuide
from backends.llamacpp.healing import PieceTable

Int64Array = npt.NDArray[np.int64]

_BANNED: Final = np.float32(-np.inf)
_N_BLANK_TOKENS: Final = 2
_BLANKS: Final = (b" ", b"\n", b"\r", b"\t")
_LONGEST_BLANK: Final = 4


class MarkerTable:
    """The tokens that matter around a pair of markers. Made off the step thread; never changes.

    `opening_tokens`: those made for the opening marker, by where in it they begin: letters will not do there.
    `spell`: tokens, with their bytes, of what follows a marker inside the same token.
    """

    def __init__(
        self,
        closing: bytes,
        opening: bytes,
        table: PieceTable,
        *,
        opening_tokens: Mapping[int, int],
        eog_tokens: Iterable[int],
        spell: Callable[[bytes], list[tuple[int, bytes]]],
    ) -> None:
        self.closing = closing
        self.opening = opening
        self.spell = spell
        self.eog = np.fromiter(sorted(eog_tokens), np.int64)
        self.blank = _ids(
            token
            for first in _BLANKS
            for token, piece in table.beginning_with(first)
            if len(piece) <= _LONGEST_BLANK and not piece.strip()
        )
        # By how much of the opening marker has been said: what can go on with it.
        self.opens = [
            _ids([opening_tokens[n_said]]) if n_said in opening_tokens else table.agreeing(opening[n_said:])
            for n_said in range(len(opening))
        ]
        # By how much of the closing marker has been said: what would end it and say more than blanks.
        self.overruns = [
            _ids(
                token
                for token, piece in table.beginning_with(closing[n_said:])
                if piece[len(closing) - n_said :].strip()
            )
            for n_said in range(len(closing))
        ]


@dataclass(frozen=True, slots=True, eq=False)
class AfterMarker:
    """What guides around a marker have in common: shared by all of them.

    `make` makes the inner guide. `may_end`: the answer may end without it. `again`: behind the inner guide's end the
    answer goes on, and may come to a marker again.
    """

    table: MarkerTable
    make: MakeGuide
    may_end: bool = False
    again: bool = False

    def begin(self) -> MarkerGuide:
        """At the beginning of an answer that may open a thought first, where there is an opening marker."""
        return MarkerGuide(self, _Phase.OPENING if self.table.opening else _Phase.FREE)

    def begin_inside(self) -> MarkerGuide:
        """In the middle: the closing marker is still to come."""
        return MarkerGuide(self, _Phase.FREE)


class _Phase(Enum):
    OPENING = "opening"
    FREE = "free"
    BLANK = "blank"
    BOUND = "bound"


class MarkerGuide:
    """A `Guide`: the table of phases is in the module's description."""

    def __init__(self, rule: AfterMarker, phase: _Phase) -> None:
        self._rule = rule
        self._table = rule.table
        self._phase = phase
        self._inner: Guide | None = rule.make() if phase is _Phase.OPENING else None
        self._only_opens: frozenset[int] = frozenset()
        self._n_opened = 0
        self._tail = b""
        self._n_blanks = 0

    @property
    def is_idle(self) -> bool:
        if self._phase is _Phase.FREE:
            return self._rule.may_end and not self._banned_groups()
        return self._inner is not None and self._inner.is_idle

    @property
    def is_complete(self) -> bool:
        return (
            self._phase is _Phase.BOUND and not self._rule.again and self._inner is not None and self._inner.is_complete
        )

    def forced(self) -> int | None:
        return self._inner.forced() if self._phase is _Phase.BOUND and self._inner is not None else None

    def mask(self, logits: Float32Array) -> None:
        match self._phase:
            case _Phase.FREE:
                for ids in self._banned_groups():
                    logits[ids] = _BANNED
                if not self._rule.may_end:
                    logits[self._table.eog] = _BANNED
            case _Phase.OPENING:
                ids = self._table.opens[self._n_opened]
                refused = self._mask_but(logits, ids)
                self._only_opens = frozenset(refused.tolist())
            case _Phase.BLANK:
                self._mask_but(logits, self._table.blank)
            case _Phase.BOUND:
                if self._inner is not None:
                    self._inner.mask(logits)

    def accept(self, token: int, piece: bytes) -> None:
        match self._phase:
            case _Phase.FREE:
                self._look_for_closing(piece)
            case _Phase.OPENING:
                self._take_opening(token, piece)
            case _Phase.BLANK if piece and not piece.strip() and self._n_blanks < _N_BLANK_TOKENS:
                self._n_blanks += 1
                if self._n_blanks == _N_BLANK_TOKENS:
                    self._phase = _Phase.BOUND
            case _Phase.BLANK | _Phase.BOUND:
                self._phase = _Phase.BOUND
                self._pass_on(token, piece)

    def _mask_but(self, logits: Float32Array, ids: Int64Array) -> Int64Array:
        """Mask by the inner guide, sparing `ids`; returns those of them that it would not let come."""
        spared = logits[ids]
        if self._inner is None:
            logits.fill(_BANNED)
        elif not self._inner.is_idle:
            self._inner.mask(logits)
        refused = ids[np.isneginf(logits[ids])]
        logits[ids] = spared
        return refused

    def _banned_groups(self) -> list[Int64Array]:
        """Tokens that would end the closing marker, begun or not, and say more."""
        closing, overruns = self._table.closing, self._table.overruns
        return [
            overruns[n_said]
            for n_said in range(len(closing))
            if overruns[n_said].size and self._tail.endswith(closing[:n_said])
        ]

    def _take_opening(self, token: int, piece: bytes) -> None:
        rest = self._table.opening[self._n_opened :]
        if piece and (rest.startswith(piece) or piece.startswith(rest)):
            self._n_opened += len(piece)
            if token in self._only_opens:
                self._inner = None
            elif self._inner is not None:
                self._pass_on(token, piece)
            if len(piece) >= len(rest):
                self._inner, self._phase, self._tail = None, _Phase.FREE, b""
                self._look_for_closing(piece[len(rest) :])
            return
        self._phase = _Phase.BOUND
        self._pass_on(token, piece)

    def _look_for_closing(self, piece: bytes) -> None:
        said = self._tail + piece
        at = said.find(self._table.closing)
        if at < 0:
            self._tail = said[max(len(said) - len(self._table.closing) + 1, 0) :]
            return
        self._tail = b""
        self._inner = self._rule.make()
        self._n_blanks = 0
        self._phase = _Phase.BLANK
        rest = said[at + len(self._table.closing) :].lstrip()
        for token, part in self._table.spell(rest) if rest else ():
            self._phase = _Phase.BOUND
            self._pass_on(token, part)

    def _pass_on(self, token: int, piece: bytes) -> None:
        if self._inner is None:
            return
        self._inner.accept(token, piece)
        if self._rule.again and self._inner.is_complete:
            self._inner, self._phase, self._tail = None, _Phase.FREE, b""


def _ids(tokens: Iterable[int]) -> Int64Array:
    return np.fromiter(sorted(tokens), np.int64)
