"""Calls are read out of a text the same however it is cut, and nothing that is no call is lost."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backends.llamacpp.tools.calls import CallDelta
from backends.llamacpp.tools.formats import FORMATS, GEMMA4, HERMES, ToolFormat
from backends.llamacpp.tools.gemma4 import QUOTE

Calls = list[tuple[str, str]]

names = st.from_regex(r"[a-zA-Z0-9_.-]{1,12}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8"), max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
arguments = st.dictionaries(texts, values, max_size=3)
calls = st.lists(st.tuples(names, arguments), min_size=1, max_size=3)
cuts = st.sets(st.integers(1, 300))
formats = st.sampled_from(FORMATS)
fragments = [" ", "\n", "a", "<", "<|", '"', "{", "}", "[", "]", ":", ",", "\\", "1", "true", "call:f", "call:f{"]
fragments += ['{"name": "f", "arguments": {', '"name"', "f", '"arguments"', "tool_call>", "</", QUOTE, "é"]
fragments += [marker for format_ in FORMATS for marker in (format_.opening, format_.closing)]
noises = st.lists(st.sampled_from(fragments), max_size=16).map("".join)


def cut(text: str, cuts: set[int]) -> list[str]:
    ends = sorted({0, len(text)} | {at for at in cuts if at < len(text)})
    return [text[start:end] for start, end in pairwise(ends)]


def split(format_: ToolFormat, pieces: list[str], *, held: bool = False) -> tuple[str, Calls]:
    """Content, and (name, arguments) of every call, of a text that came in `pieces`."""
    splitter = format_.splitter(held=held)
    content, found, ids = "", Calls(), set()
    said = [one for piece in pieces for one in splitter.push(piece)] + list(splitter.finish())
    for one in said:
        if isinstance(one, str):
            assert one
            content += one
        elif one.name is not None:
            assert one.index == len(found)
            assert one.id is not None
            ids.add(one.id)
            found.append((one.name, one.arguments))
        else:
            assert one.index == len(found) - 1
            assert one.arguments
            found[-1] = (found[-1][0], found[-1][1] + one.arguments)
    assert len(ids) == len(found) == splitter.n_calls
    return content, found


def gemma(value: Any) -> str:
    """As Gemma 4's template writes an argument."""
    match value:
        case str():
            return QUOTE + value + QUOTE
        case dict():
            return "{" + ",".join(f"{gemma(key)}:{gemma(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ",".join(map(gemma, value)) + "]"
        case _:
            return json.dumps(value)


def written(format_: ToolFormat, name: str, arguments: dict[str, Any]) -> str:
    if format_ is HERMES:
        call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
        return f"<tool_call>\n{call}\n</tool_call>"
    return f"<|tool_call>call:{name}{gemma(arguments)}<tool_call|>"


@given(formats, calls, cuts, st.booleans(), st.sampled_from(["", "\n", "Let me see.\n\n"]))
def test_calls_are_read_as_they_were_written(
    format_: ToolFormat, calls: list[tuple[str, dict[str, Any]]], cuts: set[int], held: bool, before: str
) -> None:
    if format_ is GEMMA4:
        calls = [(name, json.loads(json.dumps(a).replace("<|", "")) if QUOTE in str(a) else a) for name, a in calls]
    text = before + "\n".join(written(format_, name, arguments) for name, arguments in calls)
    content, found = split(format_, cut(text, cuts), held=held)
    assert content == before.strip()
    assert [(name, json.loads(arguments)) for name, arguments in found] == calls


@given(formats, noises, cuts, st.booleans())
@example(HERMES, '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}', {5, 40}, True)
@example(GEMMA4, '<|tool_call>call:f{a:<|"|>}<|"|>}', {5, 24, 30}, True)
def test_calls_do_not_depend_on_how_the_text_was_cut(
    format_: ToolFormat, text: str, cuts: set[int], held: bool
) -> None:
    assert split(format_, cut(text, cuts), held=held) == split(format_, [text], held=held)


@given(formats, noises)
def test_arguments_that_were_not_held_to_a_grammar_are_json_all_the_same(format_: ToolFormat, text: str) -> None:
    _, found = split(format_, [text])
    assert all(isinstance(json.loads(arguments), dict) for _, arguments in found)


@given(formats, noises)
def test_text_without_a_call_is_content_to_the_last_letter(format_: ToolFormat, text: str) -> None:
    content, found = split(format_, [text])
    assert found or content == text


@given(formats, noises, calls.map(lambda some: some[0]))
def test_broken_call_does_not_spoil_the_next_one(
    format_: ToolFormat, text: str, call: tuple[str, dict[str, Any]]
) -> None:
    name, arguments = call
    broken = f"{format_.opening}!{text.replace(format_.opening, '')}"
    if format_ is HERMES or QUOTE not in str(arguments):
        content, found = split(format_, [broken + written(format_, name, arguments)])
        assert content.startswith(format_.opening + "!")
        assert [(name, json.loads(text)) for name, text in found] == [(name, arguments)]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', "", [("f", '{"a": 1}')]),
        ('<tool_call>{"name": "f", "parameters": {"a": 1}}</tool_call>', "", [("f", '{"a": 1}')]),
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [("f", '{"a": 1}')]),
        ('<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}', "", [("f", '{"a": 1}')]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}} so', " so", [("f", '{"a": 1}')]),
        ('<tool_call>{"name": "f", "arguments": {"a": 12345678901234567890123}}', "", None),
        ('hm <tool_call>{"name": "f"}</tool_call>\nand\n', "hm\nand", [("f", "{}")]),
        ('<tool_call>{"name": 1, "arguments": {}}</tool_call>', None, []),
        ('<tool_call>{"name": "f", "arguments": [1]}</tool_call>', None, []),
        ('<tool_call>{"name": "f", "arguments": {"a": 1]}}</tool_call>', None, []),
        ('<tool_call>{"name": "f", "arguments": {"a": "\\ud800"}}</tool_call>', None, []),
        ('<tool_call>{"name": "f", "arguments": ' + '{"a": ' * 5000, None, []),
        ("<tool_call>\n<function=f>\n</tool_call>", None, []),
        ("a < b", None, []),
        ("ends in <tool_ca", None, []),
        ("\n\n", None, []),
    ],
)
def test_hermes_is_read_with_patience(text: str, content: str | None, calls: Calls | None) -> None:
    """`content` None: all of it."""
    said, found = split(HERMES, [text])
    assert calls is None or found == calls
    assert said == (text if content is None else content)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("{}", {}),
        ('{a:<|"|>x, "y"}\n<|"|>,b:-1.5e3,c:true,d:null}', {"a": 'x, "y"}\n', "b": -1500.0, "c": True, "d": None}),
        ('{ a : [1, [ ], {<|"|>k:<|"|>:<|"|><|"|>}] , b:{}}', {"a": [1, [], {"k:": ""}], "b": {}}),
        ("{a:bare words,b:01,c:http://x/y}", {"a": "bare words", "b": "01", "c": "http://x/y"}),
        ("{a:[1,],}", {"a": [1]}),
        ("{a:1]", None),
        ("{a:}", None),
        ("{a}", None),
        ('{<|"|>a<|"|>}', None),
        ("{a:1<tool_call|>", None),
        ("{a:1", None),
    ],
)
def test_gemma_is_read_with_patience(text: str, arguments: dict[str, Any] | None) -> None:
    """`arguments` None: it is no call."""
    whole = f"<|tool_call>call:f{text}<tool_call|>"
    content, found = split(GEMMA4, [whole])
    assert content == (whole if arguments is None else "")
    assert [(name, json.loads(said)) for name, said in found] == ([] if arguments is None else [("f", arguments)])


@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
def test_arguments_held_to_a_grammar_are_told_while_they_are_written(format_: ToolFormat) -> None:
    splitter = format_.splitter(held=True)
    text = written(format_, "f", {"city": "Huế and a long way from it"})
    at = text.index("long")
    said = [one for one in splitter.push(text[:at]) if isinstance(one, CallDelta)]
    assert said[0].name == "f"
    assert "".join(one.arguments for one in said) == '{"city": "Huế and a '
    assert "".join(one.arguments for one in splitter.push(text[at:]) if isinstance(one, CallDelta))


@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
def test_call_that_is_cut_short_keeps_what_was_told_of_it(format_: ToolFormat) -> None:
    text = written(format_, "f", {"city": "Huế"})
    text = text[: text.index("ế")]
    assert split(format_, [text], held=True) == ("", [("f", '{"city": "Hu')])
    assert split(format_, [text], held=False) == (text, [])
