"""Keeping a thought from using up the answer: closing it in time, and seeing to it that something is answered.

    state      text so far                         becomes
    fresh      none but blanks, or an opening's    thinking: the opening marker is whole; answering: it cannot be one
    thinking   behind the opening marker           fresh: the closing marker is whole
    answering  of the answer                       thinking, in formats that think more than once

A thought is closed when its budget is spent or no more than the answer's reserve (and the marker) is left, but never
inside a character; where the model would end the whole answer in the middle of a thought, it ends the thought instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
import numpy.typing as npt

from backends.llamacpp.detokenizer import overlap
from backends.llamacpp.reasoning import ReasoningFormat

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

_BANNED = np.float32(-np.inf)
_ASCII_BLANKS = bytes(byte for byte in range(128) if chr(byte).isspace())


@dataclass(frozen=True, slots=True)
class ThoughtMarkers:
    """A format's markers in one model's tokens. Never changes.

    `closings[i]` are the tokens that say the closing marker from its byte i on, `new_line` those of the line end before
    it, `closing_text_tokens` both and what stands before an answer. `openers[i]` make the opening marker whole once its
    first i bytes are said. `silent` tokens show nothing: blanks, parts of characters, hidden control tokens. `eog`
    tokens end an answer.
    """

    format_: ReasoningFormat
    closing_text_tokens: tuple[int, ...]
    opening: bytes
    closing: bytes
    new_line: tuple[int, ...]
    closings: tuple[tuple[int, ...], ...]
    openers: tuple[Int64Array, ...]
    silent: Int64Array
    eog: Int64Array

    @property
    def n_closing_tokens(self) -> int:
        """The most tokens that it takes to close a thought."""
        return len(self.new_line) + max(map(len, self.closings))


def thought_markers(
    format_: ReasoningFormat,
    pieces: Iterable[tuple[int, bytes]],
    tokenize: Callable[[str], list[int]],
    eog_tokens: Iterable[int],
) -> ThoughtMarkers:
    """`pieces`: every token with the bytes that it shows; takes about a microsecond for each."""
    opening, closing = format_.opening.encode(), format_.closing.encode()
    ends = [opening[i:] for i in range(len(opening))]
    openers: list[list[int]] = [[] for _ in ends]
    silent: list[int] = []
    first_bytes = {end[:1] for end in ends}
    for token, piece in pieces:
        if not (piece.isascii() and piece.strip(_ASCII_BLANKS)) and not _shows(piece):
            silent.append(token)
        if piece[:1] in first_bytes:
            for rows, end in zip(openers, ends, strict=True):
                if piece.startswith(end):
                    rows.append(token)
    return ThoughtMarkers(
        format_,
        tuple(tokenize("\n" + format_.closing + format_.before_answer)),
        opening,
        closing,
        tuple(tokenize("\n")),
        tuple(tuple(tokenize(format_.closing[i:])) for i in range(len(closing))),
        tuple(np.array(rows, np.int64) for rows in openers),
        np.array(silent, np.int64),
        np.fromiter(sorted(eog_tokens), np.int64),
    )


@dataclass(frozen=True, slots=True)
class ThoughtLimit:
    """How a request's answers may think: the arguments of `Thought` that all of them share."""

    markers: ThoughtMarkers
    n_reserved: int
    budget: int | None = None
    inside: bool = False
    answering: bool = False
    closed: bool = False

    def begin(self, max_tokens: int) -> Thought:
        return Thought(
            self.markers,
            max_tokens=max_tokens,
            n_reserved=self.n_reserved,
            budget=self.budget,
            inside=self.inside,
            answering=self.answering,
            closed=self.closed,
        )


class _State(Enum):
    FRESH = auto()
    THINKING = auto()
    ANSWERING = auto()


class Thought:
    """A guide: see above. `n_tokens` are those of its thoughts, markers included.

    `max_tokens` bounds the whole answer, `budget` its thoughts (None: no bound); `n_reserved` tokens are kept for what
    follows. `inside`: the prompt ends in a thought; `answering`: in an answer that has begun; `closed`: right behind a
    thought.
    """

    is_complete = False

    def __init__(
        self,
        markers: ThoughtMarkers,
        *,
        max_tokens: int,
        n_reserved: int,
        budget: int | None = None,
        inside: bool = False,
        answering: bool = False,
        closed: bool = False,
    ) -> None:
        self._markers = markers
        self._n_left = max_tokens
        self._n_reserved = n_reserved
        self._budget = budget
        self._state = _State.THINKING if inside else _State.ANSWERING if answering else _State.FRESH
        self._has_answered = answering
        self._has_thought = closed
        self._said = b""  # the end of what was said, long enough to hold a part of a marker or of a character
        self._forced: deque[int] = deque()
        self.n_tokens = 0
        if self.is_thinking and self._must_close():
            self._forced.extend(self._closing())

    @property
    def is_thinking(self) -> bool:
        return self._state is _State.THINKING

    @property
    def is_idle(self) -> bool:
        match self._state:
            case _State.THINKING:
                return False
            case _State.FRESH:
                return self._can_think and not self._owes_an_answer
            case _State.ANSWERING:
                return True

    def forced(self) -> int | None:
        return self._forced[0] if self._forced else None

    def mask(self, logits: Float32Array) -> None:
        markers = self._markers
        if self.is_thinking:
            first = self._closing()[0]
            logits[first] = max(logits[first], logits[markers.eog].max(initial=_BANNED))
            logits[markers.eog] = _BANNED
            return
        if not self._can_think:
            logits[markers.openers[overlap(self._said, markers.opening)]] = _BANNED
        if self._owes_an_answer:
            logits[markers.eog] = _BANNED
            if self._n_left <= 1 and not _is_mid_character(self._said):
                logits[markers.silent] = _BANNED

    def accept(self, token: int, piece: bytes) -> None:
        self._n_left -= 1
        if self._forced and self._forced.popleft() != token:
            self._forced.clear()
        was_thinking = self.is_thinking
        self.read(piece)
        self.n_tokens += was_thinking or self.is_thinking
        if self.is_thinking and not self._forced and self._must_close():
            self._forced.extend(self._closing())

    def read(self, piece: bytes) -> None:
        """Bytes of the answer, of a token that does not count: one that says the prompt's last bytes again and more."""
        markers = self._markers
        if self._state is _State.ANSWERING and markers.format_.only_first:
            return
        self._said += piece
        if self.is_thinking:
            _, marker, rest = self._said.partition(markers.closing)
            if marker:
                self._state, self._has_thought, self._said = _State.FRESH, True, b""
                self.read(rest)
                return
        else:
            before, marker, rest = self._said.partition(markers.opening)
            if marker and not (markers.format_.only_first and _shows(before)):
                self._has_answered |= _shows(before)
                self._state, self._said = _State.THINKING, b""
                self.read(rest)
                return
            n_open = overlap(self._said, markers.opening)
            if _shows(self._said[: len(self._said) - n_open]):
                self._state, self._has_answered = _State.ANSWERING, True
        self._said = self._said[-max(len(markers.opening), len(markers.closing)) :]

    @property
    def _owes_an_answer(self) -> bool:
        return self._has_thought and not self._has_answered

    @property
    def _can_think(self) -> bool:
        """Whether a thought that begins with the next token leaves room to close it and to say something."""
        return self._n_left - 1 > self._markers.n_closing_tokens

    def _must_close(self) -> bool:
        n_spare = self._n_left - self._markers.n_closing_tokens
        if n_spare <= 1:
            return not self._has_answered
        is_spent = self._budget is not None and self.n_tokens >= self._budget
        return (is_spent or n_spare <= self._n_reserved) and not _is_mid_character(self._said)

    def _closing(self) -> tuple[int, ...]:
        n_said = overlap(self._said, self._markers.closing)
        line_end = () if n_said or self._said.endswith(b"\n") else self._markers.new_line
        return line_end + self._markers.closings[n_said]


def _shows(text: bytes) -> bool:
    """Whether there is more than blanks in it, and more than a part of a character."""
    return bool(text.decode("utf-8", "ignore").strip())


def _is_mid_character(text: bytes) -> bool:
    for n_bytes in range(1, min(len(text), 3) + 1):
        byte = text[-n_bytes]
        if byte & 0xC0 != 0x80:
            return byte >= 0xC0 and n_bytes < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
    return False
