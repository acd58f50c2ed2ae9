"""Splitting what a model thought from what it answers.

    format   opened by              closed by     models
    think    <think>                </think>      Qwen3 and its distills, DeepSeek R1
    gemma4   <|channel>thought      <channel|>    Gemma 4

A model may open the block itself, or the prompt may end inside one already (the template opened it, or the request
continues a thought). `begun` is the way back: from what was shown of an answer to the text the model had written.
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
    CALLS = "tool_calls"


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """`only_first`: once the answer has begun, the opening marker is text like any other.

    A model writes a line end on the inner side of both markers, and `before_answer` behind the block. `always`: where
    it has nothing to think, it writes an empty block before its answer.
    """

    opening: str
    closing: str
    only_first: bool
    before_answer: str
    always: bool


FORMATS: Final = {
    "think": ReasoningFormat("<think>", "</think>", only_first=True, before_answer="\n\n", always=True),
    "gemma4": ReasoningFormat("<|channel>thought", "<channel|>", only_first=False, before_answer="", always=False),
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


@dataclass(frozen=True, slots=True)
class Begun:
    """An answer's beginning as text behind the generation prompt, in pieces (text, is a marker of the format).

    `inside_reasoning`: the model goes on with a thought.
    """

    pieces: tuple[tuple[str, bool], ...]
    inside_reasoning: bool


def begun(format_: ReasoningFormat, prompt: str, reasoning: str, content: str) -> Begun:
    """What a model had written behind `prompt` by the time it had shown `reasoning` and then `content`.

    A thought without content is still open. Blanks that were shown are the model's own; those between a thought, its
    markers and the answer, which may not have been shown, are put where the model puts them. Content that begins with
    the opening marker comes from an engine that shows its blocks: it is read as thought and answer.
    """
    tail = prompt.rstrip()[-max(len(format_.opening), len(format_.closing)) :]
    is_open = ends_inside(format_, tail)
    if not reasoning:
        reasoning, content = _parted(format_, content)
    if not reasoning and not content:
        return Begun((), is_open)
    if not reasoning and not is_open and (not format_.always or tail.endswith(format_.closing)):
        return Begun(((content, False),), inside_reasoning=False)
    pieces = [] if is_open else [(format_.opening, True)]
    is_on_new_line = (is_open and prompt[-1:].isspace()) or reasoning[:1].isspace()
    thought = reasoning if is_on_new_line else "\n" + reasoning
    if not content:
        return Begun((*pieces, (thought, False)), inside_reasoning=True)
    end = "" if reasoning[-1:].isspace() else "\n"
    between = "" if content[0].isspace() else format_.before_answer
    pieces += [(thought + end, False), (format_.closing, True), (between + content, False)]
    return Begun(tuple(pieces), inside_reasoning=False)


def _parted(format_: ReasoningFormat, content: str) -> tuple[str, str]:
    """Thought and answer of a text that may begin with a whole or an open block."""
    text = content.lstrip()
    if not text.startswith(format_.opening):
        return "", content
    thought, closing, answer = text.removeprefix(format_.opening).partition(format_.closing)
    return (thought.strip() if closing else thought.lstrip()), answer


class ReasoningSplitter:
    """Feeds on text in pieces of any size, yields (channel, text) in order.

    White space around the reasoning belongs to neither channel. A block that never closes is reasoning to its end.

    `starts_inside`: the prompt ends in a thought. What comes first is shown as it is, for it may be the space between
    two words; unless the marker is all there is of the thought (`after_marker`). `answered`: the prompt ends in an
    answer that has begun.
    """

    def __init__(
        self,
        format_: ReasoningFormat,
        *,
        starts_inside: bool = False,
        after_marker: bool = False,
        answered: bool = False,
    ) -> None:
        self._format = format_
        self._inside = starts_inside
        self._after_marker = after_marker
        self._answered = answered
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
