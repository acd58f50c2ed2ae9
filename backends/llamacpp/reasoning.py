"""Splitting what a model thought from what it answers.

    format   opened by              closed by     models
    think    <think>                </think>      Qwen3 and its distills, DeepSeek R1
    gemma4   <|channel>thought      <channel|>    Gemma 4

A model may open the block itself, or the prompt may end inside one already (the template opened it).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from backends.llamacpp.detokenizer import overlap


class Channel(Enum):
    CONTENT = "content"
    REASONING = "reasoning"


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """`only_first`: once the answer has begun, the opening marker is text like any other."""

    opening: str
    closing: str
    only_first: bool


FORMATS: Final = {
    "think": ReasoningFormat("<think>", "</think>", only_first=True),
    "gemma4": ReasoningFormat("<|channel>thought", "<channel|>", only_first=False),
}


def detect_format(chat_template: str) -> ReasoningFormat | None:
    """The format whose markers a chat template speaks of."""
    for format_ in (FORMATS["gemma4"], FORMATS["think"]):
        if format_.closing in chat_template:
            return format_
    return None


def ends_inside(format_: ReasoningFormat, tail: str) -> bool:
    """Whether a prompt that ends with `tail` leaves a reasoning block open."""
    return tail.rfind(format_.opening) > tail.rfind(format_.closing)


class ReasoningSplitter:
    """Feeds on text in pieces of any size, yields (channel, text) in order.

    White space around the reasoning belongs to neither channel. A block that never closes is reasoning to its end.
    """

    def __init__(self, format_: ReasoningFormat, *, starts_inside: bool = False) -> None:
        self._format = format_
        self._inside = starts_inside
        self._after_marker = starts_inside
        self._answered = False
        self._buffer = ""

    def push(self, text: str) -> Iterator[tuple[Channel, str]]:
        self._buffer += text
        while self._buffer:
            if self._answered and not self._inside and self._format.only_first:
                yield from self._take(len(self._buffer))
                return
            marker = self._format.closing if self._inside else self._format.opening
            at = self._buffer.find(marker)
            if at < 0:
                yield from self._take(self._n_certain(marker))
                return
            blank = not self._answered and not self._buffer[:at].strip()
            if not self._inside and self._format.only_first and not blank:
                yield from self._take(at)  # the answer has begun: what follows is text
                continue
            yield from self._take(at, trim_end=self._inside or blank)
            self._buffer = self._buffer[len(marker) :]
            self._inside = not self._inside
            self._after_marker = True

    def finish(self) -> Iterator[tuple[Channel, str]]:
        """What was held back and turned out to be text."""
        yield from self._take(len(self._buffer), trim_end=self._inside)

    def _n_certain(self, marker: str) -> int:
        """Characters of the buffer that are neither the beginning of a marker nor blanks that may stand before one."""
        n_head = len(self._buffer) - overlap(self._buffer, marker)
        head = self._buffer[:n_head]
        if self._inside:
            return len(head.rstrip())
        return n_head if self._answered or head.strip() else 0

    def _take(self, n_chars: int, *, trim_end: bool = False) -> Iterator[tuple[Channel, str]]:
        text, self._buffer = self._buffer[:n_chars], self._buffer[n_chars:]
        if trim_end:
            text = text.rstrip()
        if self._after_marker:
            text = text.lstrip()
        if not text:
            return
        self._after_marker = False
        self._answered = self._answered or not self._inside
        yield (Channel.REASONING if self._inside else Channel.CONTENT), text
