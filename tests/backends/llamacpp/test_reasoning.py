from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backends.llamacpp.reasoning import (
    FORMATS,
    Channel,
    ReasoningFormat,
    ReasoningSplitter,
    begun,
    detect_format,
    ends_inside,
)

THINK, GEMMA4 = FORMATS["think"], FORMATS["gemma4"]
formats = st.sampled_from([THINK, GEMMA4])
fragments = [" ", "\n", "a", "b c", "<", "<th", "think>", "</", "<|", "channel", ">", "thought"]
fragments += [marker for format_ in (THINK, GEMMA4) for marker in (format_.opening, format_.closing)]
texts = st.lists(st.sampled_from(fragments), max_size=12).map("".join)


def split(format_: ReasoningFormat, pieces: list[str], *, inside: bool = False) -> tuple[str, str]:
    """(reasoning, content) of a text that came in `pieces`."""
    splitter = ReasoningSplitter(format_, starts_inside=inside)
    said = {Channel.REASONING: "", Channel.CONTENT: ""}
    for piece in pieces:
        for channel, text in splitter.push(piece):
            assert text
            said[channel] += text
    for channel, text in splitter.finish():
        said[channel] += text
    return said[Channel.REASONING], said[Channel.CONTENT]


@given(formats, texts, st.sets(st.integers(1, 80)), st.booleans())
@example(GEMMA4, "a\n<|channel>thoughtb<channel|>c", {1}, False)
def test_channels_do_not_depend_on_how_the_text_was_cut(
    format_: ReasoningFormat, text: str, cuts: set[int], inside: bool
) -> None:
    ends = sorted({0, len(text)} | {at for at in cuts if at < len(text)})
    pieces = [text[start:end] for start, end in pairwise(ends)]
    assert split(format_, pieces, inside=inside) == split(format_, [text], inside=inside)


@given(formats, texts, st.booleans())
def test_only_markers_and_blanks_are_ever_lost(format_: ReasoningFormat, text: str, inside: bool) -> None:
    reasoning, content = split(format_, [text], inside=inside)
    for marker in (format_.opening, format_.closing):
        text, reasoning, content = text.replace(marker, ""), reasoning.replace(marker, ""), content.replace(marker, "")
    assert sorted("".join((reasoning + content).split())) == sorted("".join(text.split()))


@given(texts, st.booleans())
def test_text_without_markers_is_all_of_one_channel(text: str, inside: bool) -> None:
    for marker in (THINK.opening, THINK.closing):
        text = text.replace(marker, "")
    text = f"x{text}x"
    if THINK.opening not in text and THINK.closing not in text:
        assert split(THINK, [text], inside=inside) == ((text, "") if inside else ("", text))


@pytest.mark.parametrize(
    ("text", "inside", "expected"),
    [
        ("<think>\nhm\n</think>\n\nyes", False, ("hm", "yes")),
        ("hm\n</think>\n\nyes", True, ("hm", "yes")),
        ("\n<think>hm</think>yes", False, ("hm", "yes")),
        ("<think>\n\n</think>\n\nyes", False, ("", "yes")),
        ("<think>never closed", False, ("never closed", "")),
        ("never closed</thin", True, ("never closed</thin", "")),
        ("say <think> aloud</think>", False, ("", "say <think> aloud</think>")),
        ("<think>a</think>say <think>b</think>", False, ("a", "say <think>b</think>")),
        ("no thought at all", False, ("", "no thought at all")),
        ("<thin ice", False, ("", "<thin ice")),
        ("", True, ("", "")),
    ],
)
def test_think_blocks_are_split_off(text: str, inside: bool, expected: tuple[str, str]) -> None:
    assert split(THINK, [text], inside=inside) == expected
    assert split(THINK, list(text), inside=inside) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<|channel>thought\nhm<channel|>yes", ("hm", "yes")),
        ("<|channel>thought\n<channel|>yes", ("", "yes")),
        ("yes<|channel>thought\nmore<channel|> and no", ("more", "yesand no")),
        ("<|channel>thought\nnever closed", ("never closed", "")),
        ("plain", ("", "plain")),
    ],
)
def test_gemma4_channels_are_split_off_wherever_they_stand(text: str, expected: tuple[str, str]) -> None:
    assert split(GEMMA4, [text]) == expected
    assert split(GEMMA4, list(text)) == expected


@pytest.mark.parametrize(
    ("template", "format_"),
    [("{{ '</think>' }}", THINK), ("{{ '<channel|>' }}", GEMMA4), ("{{ messages }}", None), ("", None)],
)
def test_format_is_known_by_the_markers_in_the_template(template: str, format_: ReasoningFormat | None) -> None:
    assert detect_format(template) is format_


@pytest.mark.parametrize(
    ("tail", "inside"), [("<think>", True), ("<think>a</think>", False), ("</think><think>b", True), ("", False)]
)
def test_prompt_is_inside_while_its_last_block_is_open(tail: str, inside: bool) -> None:
    assert ends_inside(THINK, tail) is inside


words = st.lists(st.sampled_from(["a", "b c", " ", "\n", "\n\n", "<", "<th", "<|", "ink>", "ễ"]), max_size=8).map(
    "".join
)
prompts = st.sampled_from(
    ["model\n", "<think>\n", "<think>", "<think>\n\n</think>\n\n", "<|channel>thought\n<channel|>"]
)


def plain(text: str) -> str:
    """`text` without blanks around it, and without markers."""
    for format_ in (THINK, GEMMA4):
        text = text.replace(format_.opening, "").replace(format_.closing, "")
    return text.strip()


@given(formats, words, words, st.data())
@example(THINK, "", "yes", None)
def test_cut_anywhere_an_answer_is_begun_as_it_was_written_and_its_rest_is_the_rest(
    format_: ReasoningFormat, thought: str, answer: str, data: st.DataObject | None
) -> None:
    thought, answer = plain(thought), plain(answer)
    block = f"{format_.opening}\n{thought}\n{format_.closing}{format_.before_answer}"
    written = answer if not thought and not format_.always else block + answer
    at = data.draw(st.integers(0, len(written))) if data is not None else len(written) - 1
    shown = {Channel.REASONING: "", Channel.CONTENT: ""}
    for channel, text in ReasoningSplitter(format_).push(written[:at]):
        shown[channel] += text
    start = begun(format_, "model\n", shown[Channel.REASONING], shown[Channel.CONTENT])
    again = "".join(text for text, _ in start.pieces)
    assert written.startswith(again)
    rest = split(format_, [written[len(again) :]], inside=start.inside_reasoning)
    assert (shown[Channel.REASONING] + rest[0], shown[Channel.CONTENT] + rest[1]) == (thought, answer)


@given(formats, prompts, words, words)
def test_what_was_shown_is_never_changed_and_only_markers_are_the_formats_own(
    format_: ReasoningFormat, prompt: str, reasoning: str, content: str
) -> None:
    reasoning, content = (plain(text) and text for text in (reasoning, content))
    if any(format_.opening in text or format_.closing in text for text in (reasoning, content)):
        return
    start = begun(format_, prompt, reasoning, content)
    own = [text for text, is_marker in start.pieces if is_marker]
    assert set(own) <= {format_.opening, format_.closing}
    theirs = "".join(text for text, is_marker in start.pieces if not is_marker)
    assert theirs.endswith(content)
    assert theirs.lstrip("\n").startswith(reasoning.lstrip("\n"))
    assert len(theirs) - len(reasoning) - len(content) <= 4
    assert start.inside_reasoning == bool(reasoning and not content) or not (reasoning or content)
