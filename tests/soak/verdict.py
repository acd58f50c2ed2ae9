"""How a request ended, and whether it may end like that.

end           what the client saw                                             allowed
whole         every word once, the finish reason, `[DONE]`                    always
refused       429 with Retry-After                                            always
unavailable   503 with Retry-After                                            while an engine suffers
timed_out     504, or an error event that says so                             while an engine suffers
broken        500, or an error event behind a beginning that is right         of what cannot move, while …
left          its client went away                                            if it meant to
wrong         anything else: cut, doubled, lost, without a reason             never
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.backends.fake_answers import CountedAnswer, counted_answer
from tests.soak.program import N_WORDS
from tests.soak.traffic import Ask


class End(StrEnum):
    WHOLE = "whole"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    TIMED_OUT = "timed_out"
    BROKEN = "broken"
    LEFT = "left"
    WRONG = "wrong"


@dataclass(slots=True)
class Heard:
    """All that came back. `cut`: why the connection ended before its time; `has_left`: it was the client's doing.

    `first_word_at`: when a stream's first word came, by the clock of whoever fills this in.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    finish: str | None = None
    n_tokens: int | None = None
    error: str | None = None
    is_done: bool = False
    n_after_done: int = 0
    has_left: bool = False
    cut: str | None = None
    first_word_at: float | None = None

    def take(self, event: Mapping[str, Any], now: float | None = None) -> None:
        """An event of a stream, or a whole answer."""
        if self.is_done:
            self.n_after_done += 1
        if "error" in event:
            self.error = str(event["error"].get("code"))
        if event.get("usage"):
            self.n_tokens = event["usage"]["completion_tokens"]
        for choice in event.get("choices", ()):
            said = choice.get("delta") or choice.get("message") or choice
            self.text += said.get("content") or said.get("text") or ""
            self.finish = choice.get("finish_reason") or self.finish
        if self.text and self.first_word_at is None:
            self.first_word_at = now


def judge(heard: Heard, ask: Ask) -> tuple[End, str]:
    """The end, and what is wrong with it where it is `WRONG`."""
    expected = counted_answer(ask.body, n_words=N_WORDS)
    if heard.has_left:
        is_right = expected.content.startswith(heard.text) and heard.status in (0, 200, 429, 503)
        return (End.LEFT, "") if is_right else (End.WRONG, f"before its client left: {heard.text!r}")
    if heard.cut is not None:
        return End.WRONG, f"cut after {heard.text[-20:]!r}: {heard.cut}"
    if heard.status in (429, 503):
        if not heard.headers.get("Retry-After", "").isdigit():
            return End.WRONG, f"{heard.status} without Retry-After"
        return (End.REFUSED if heard.status == 429 else End.UNAVAILABLE), ""
    if heard.status == 504:
        return End.TIMED_OUT, ""
    if heard.status != 200:
        return End.WRONG, f"{heard.status} {heard.error}"
    if heard.error is not None:
        return _judge_broken(heard, ask, expected)
    return _judge_whole(heard, ask, expected)


def _judge_broken(heard: Heard, ask: Ask, expected: CountedAnswer) -> tuple[End, str]:
    if not (heard.is_done and expected.content.startswith(heard.text)):
        return End.WRONG, f"an error event after {heard.text!r}, done: {heard.is_done}"
    if heard.error == "request_timeout":
        return End.TIMED_OUT, ""
    if heard.error == "engine_failed" and not ask.can_move:
        return End.BROKEN, ""
    return End.WRONG, f"an answer that could have moved ended with {heard.error} after {heard.text[-20:]!r}"


def _judge_whole(heard: Heard, ask: Ask, expected: CountedAnswer) -> tuple[End, str]:
    if ask.is_stream and (not heard.is_done or heard.n_after_done):
        return End.WRONG, f"a stream without its [DONE], or with more behind it, after {heard.text[-20:]!r}"
    if heard.text != expected.content:
        return End.WRONG, f"words lost or doubled: {heard.text!r}"
    if heard.finish != expected.finish:
        return End.WRONG, f"finish reason {heard.finish!r} in place of {expected.finish!r}"
    if heard.n_tokens not in (None, expected.n_tokens):
        return End.WRONG, f"usage says {heard.n_tokens} tokens of {expected.n_tokens}"
    return End.WHOLE, ""
