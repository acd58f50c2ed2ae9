"""A thought is closed in time, whatever the model says, and something is answered."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backends.llamacpp.reasoning import FORMATS, Channel, ReasoningSplitter
from backends.llamacpp.thought import Thought, ThoughtMarkers, thought_markers

EOG = 0
PIECES = [
    b"",  # the end of an answer
    *[b"a", b" b", b"\n", b" ", b"\n\n", b"<", b"|", b">", b"</", b"think", b"ink>", b"channel", b"thought", b"k"],
    *[b"<think>", b"</think>", b"<|channel>", b"<channel|>", b"x</", b">y", b"\xe4", b"\xbd", b"\xa0", b"\xf0"],
]
N_VOCAB = len(PIECES)


def tokenize(text: str, *, whole_markers: bool) -> list[int]:
    """The longest pieces first."""
    rest, tokens = text.encode(), list[int]()
    while rest:
        fits = [t for t, piece in enumerate(PIECES) if piece and rest.startswith(piece)]
        if not whole_markers:
            fits = [t for t in fits if PIECES[t] not in (b"<think>", b"</think>", b"<|channel>", b"<channel|>")]
        best = max(fits or [spelt(rest[:1])], key=lambda t: len(PIECES[t]))
        tokens.append(best)
        rest = rest[len(PIECES[best]) :]
    return tokens


def spelt(byte: bytes) -> int:
    if byte not in PIECES:
        PIECES.append(byte)
    return PIECES.index(byte)


for _marker in (*(f.opening for f in FORMATS.values()), *(f.closing for f in FORMATS.values())):
    for _i in range(len(_marker)):
        tokenize(_marker[_i:], whole_markers=False)
N_VOCAB = len(PIECES)


@cache
def markers(format_: str, *, whole: bool) -> ThoughtMarkers:
    return thought_markers(
        FORMATS[format_], enumerate(PIECES), lambda text: tokenize(text, whole_markers=whole), frozenset({EOG})
    )


def said(thought: Thought, max_tokens: int, wish: Callable[[int], int]) -> tuple[list[int], bool]:
    """Tokens of an answer in which the model wishes for `wish(n)` at its n-th token; whether it ended by itself."""
    tokens: list[int] = []
    while len(tokens) < max_tokens:
        token = thought.forced()
        if token is None:
            logits = np.zeros(N_VOCAB, np.float32)
            wished = wish(len(tokens))
            logits[wished] = 10
            logits[1] = 5  # the second best is always "a"
            if not thought.is_idle:
                thought.mask(logits)
            token = int(logits.argmax())
        if token == EOG:
            return tokens, True
        tokens.append(token)
        thought.accept(token, PIECES[token])
    return tokens, False


def shown(format_: str, tokens: list[int], *, inside: bool) -> dict[Channel, str]:
    splitter = ReasoningSplitter(FORMATS[format_], starts_inside=inside, after_marker=inside)
    text = b"".join(PIECES[token] for token in tokens).decode("utf-8", "ignore")
    channels = {Channel.CONTENT: "", Channel.REASONING: ""}
    for channel, piece in [*splitter.push(text), *splitter.finish()]:
        channels[channel] += piece
    return channels


def token(piece: bytes) -> int:
    return PIECES.index(piece)


OPENINGS = {"think": [b"<think>"], "gemma4": [b"<|channel>", b"thought"]}


@given(
    format_=st.sampled_from(list(FORMATS)),
    whole=st.booleans(),
    inside=st.booleans(),
    max_tokens=st.integers(1, 60),
    n_reserved=st.integers(0, 30),
    budget=st.none() | st.integers(0, 40),
    wishes=st.lists(st.integers(0, 24), min_size=1, max_size=60),
    opens=st.booleans(),
)
@example("think", True, False, 1, 16, None, [token(b"<think>")], True)
@example("gemma4", True, False, 2, 16, None, [EOG], True)
def test_something_is_answered_whatever_a_model_that_thinks_wishes_to_say(
    format_: str,
    whole: bool,
    inside: bool,
    max_tokens: int,
    n_reserved: int,
    budget: int | None,
    wishes: list[int],
    opens: bool,
) -> None:
    made = markers(format_, whole=whole)
    if inside and max_tokens <= made.n_closing_tokens + 1:
        return  # the prompt closes such a thought
    if opens and not inside:
        wishes = [token(piece) for piece in OPENINGS[format_]] + wishes
    thought = Thought(made, max_tokens=max_tokens, n_reserved=n_reserved, budget=budget, inside=inside)
    tokens, ended = said(thought, max_tokens, lambda n: wishes[n % len(wishes)])
    channels = shown(format_, tokens, inside=inside)
    has_thought = inside or bool(channels[Channel.REASONING])
    if has_thought and not thought.is_thinking:
        # A character that is cut off by the very end cannot be helped.
        last = b"".join(PIECES[t] for t in tokens)[-3:]
        is_cut = last.decode("utf-8", "ignore").encode() != last
        assert channels[Channel.CONTENT].strip() or is_cut
    assert not (ended and thought.is_thinking)
    if thought.is_thinking:
        assert channels[Channel.CONTENT].strip(), "only a second thought may be the end, after an answer"


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("max_tokens", [20, 33, 64, 199])
def test_reserve_is_left_when_a_thought_would_go_on_for_ever(format_: str, whole: bool, max_tokens: int) -> None:
    made = markers(format_, whole=whole)
    thought = Thought(made, max_tokens=max_tokens, n_reserved=max_tokens // 4, inside=True)
    tokens, _ = said(thought, max_tokens, lambda _: token(b"a"))
    channels = shown(format_, tokens, inside=True)
    n_closing = made.n_closing_tokens
    assert len(channels[Channel.CONTENT]) in range(max_tokens // 4, max_tokens // 4 + n_closing)
    assert set(channels[Channel.REASONING]) == {"a"}
    assert thought.n_tokens == max_tokens - len(channels[Channel.CONTENT])


@pytest.mark.parametrize("budget", [0, 1, 5, 20])
def test_budget_ends_a_thought_that_the_model_began(budget: int) -> None:
    thought = Thought(markers("think", whole=True), max_tokens=80, n_reserved=16, budget=budget)
    begin = token(b"<think>")
    tokens, _ = said(thought, 80, lambda n: begin if n == 0 else token(b"a"))
    n_thought = len(shown("think", tokens, inside=False)[Channel.REASONING])
    assert n_thought == max(budget - 1, 0)  # the marker counts


def test_model_that_would_end_inside_a_thought_ends_the_thought() -> None:
    thought = Thought(markers("think", whole=True), max_tokens=80, n_reserved=16, inside=True)
    wishes = [token(b"a"), EOG, EOG, token(b" b"), EOG]
    tokens, ended = said(thought, 80, lambda n: wishes[min(n, 4)])
    assert ended
    channels = shown("think", tokens, inside=True)
    assert channels[Channel.REASONING] == "a"
    assert channels[Channel.CONTENT].strip()


def test_marker_that_the_model_has_begun_is_finished_and_not_begun_again() -> None:
    thought = Thought(markers("think", whole=False), max_tokens=80, n_reserved=16, budget=2, inside=True)
    wishes = [token(b"a"), token(b"</"), token(b"a")]
    tokens, _ = said(thought, 40, lambda n: wishes[min(n, 2)])
    text = b"".join(PIECES[t] for t in tokens).decode()
    assert text.startswith("a</think>")


def test_thought_is_not_closed_inside_a_character() -> None:
    thought = Thought(markers("think", whole=True), max_tokens=80, n_reserved=16, budget=1, inside=True)
    wishes = [token(b"\xe4"), token(b"\xbd"), token(b"\xa0"), token(b"a")]
    tokens, _ = said(thought, 80, lambda n: wishes[min(n, 3)])
    assert shown("think", tokens, inside=True)[Channel.REASONING] == "你"


def test_answer_without_a_thought_is_left_alone() -> None:
    thought = Thought(markers("think", whole=True), max_tokens=80, n_reserved=16)
    assert thought.is_idle
    thought.accept(token(b"a"), b"a")
    for piece in (b"<think>", b"a"):
        thought.accept(token(piece), piece)
        assert thought.is_idle
    assert thought.n_tokens == 0


def test_answer_that_was_begun_speaks_of_markers() -> None:
    thought = Thought(markers("think", whole=True), max_tokens=3, n_reserved=16, answering=True)
    assert thought.is_idle
    thought.read(b"<think>")
    thought.accept(token(b"<think>"), b"<think>")
    assert thought.is_idle
    assert not thought.is_thinking


@pytest.mark.parametrize("max_tokens", [1, 2, 3])
def test_thought_that_the_prompt_closed_is_answered(max_tokens: int) -> None:
    thought = Thought(markers("think", whole=True), max_tokens=max_tokens, n_reserved=16, closed=True)
    wishes = [token(b"\n"), EOG, EOG]
    tokens, _ = said(thought, max_tokens, lambda n: wishes[n])
    assert shown("think", tokens, inside=False)[Channel.CONTENT].strip()
