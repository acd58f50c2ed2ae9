"""Calls out of noise: what comes right does so by the grammar alone, in every spelling and for every choice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest

from backends.llamacpp.grammar import GrammarCompiler
from backends.llamacpp.guide import Guide
from backends.llamacpp.native import Model
from backends.llamacpp.tools.calls import CallDelta, Tool, ToolUse
from backends.llamacpp.tools.declared import ToolError
from backends.llamacpp.tools.formats import FORMATS, GEMMA4, HERMES, ToolFormat
from backends.llamacpp.tools.held import CallGrammars
from tests.backends.llamacpp.worker import MODEL

MAX_TOKENS = 300
PATIENCE = 25

SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {}},
    {"type": "object"},
    {"properties": {"a": {"type": "string"}, "B": {"type": "boolean"}, "c d": {"type": "null"}}, "required": ["B"]},
    {"properties": {"a": {"type": "string", "minLength": 2, "maxLength": 4}}, "required": ["a"]},
    {"properties": {"a": {"type": "string", "pattern": "^[a-c]{2,4}$"}, "b": {"pattern": "x"}}, "required": ["a"]},
    {"properties": {"n": {"type": "integer", "minimum": 3, "maximum": 7}}, "required": ["n"]},
    {
        "properties": {"l": {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 3}},
        "required": ["l"],
    },
    {"properties": {"l": {"type": "array", "maxItems": 0}, "m": {"type": "array"}}, "required": ["l", "m"]},
    {"properties": {"e": {"enum": ["one", "two, three", "", 4, None, [1, "x"], {"k": True}]}}, "required": ["e"]},
    {"properties": {"c": {"const": "Huế {1}"}, "t": {"type": ["string", "null"]}}, "required": ["c", "t"]},
    {"properties": {"u": {"anyOf": [{"type": "integer"}, {"type": "object", "properties": {"k": {"const": 1}}}]}}},
    {"properties": {"m": {"type": "object", "additionalProperties": {"type": "integer"}}}, "required": ["m"]},
    {
        "properties": {"d": {"type": "string", "format": "date", "description": "a day"}, "x": {}},
        "required": ["d", "x"],
    },
    {
        "properties": {"tree": {"$ref": "#/$defs/node"}},
        "required": ["tree"],
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"leaf": {"type": "boolean"}, "next": {"$ref": "#/$defs/node"}},
                "required": ["leaf"],
            }
        },
    },
]


class Noise:
    """A model whose logits are noise, and which wants to come to an end after a while."""

    def __init__(self) -> None:
        self.model = Model(MODEL, n_gpu_layers=0)
        self.compiler = GrammarCompiler(self.model)
        ends = ['"', '"}', '"]', "}", "]", '",', "<", "|", '"|', ">", "}<", "1"]
        closing = {token for text in ends for token in self.model.tokenize(text)}
        self._closing = np.array(sorted(closing | self.model.eog_tokens))

    def go_on(self, guide: Guide, begun: str = "", *, seed: int = 0) -> str:
        """The answer that began with a text, to its end or to the most tokens."""
        random = np.random.default_rng(seed)
        said = b""
        due = self.model.tokenize(begun)
        for n_tokens in range(MAX_TOKENS):
            token = due.pop(0) if due else None if guide.is_idle else guide.forced()
            if token is None:
                logits = random.normal(size=self.model.n_vocab).astype(np.float32)
                if n_tokens > PATIENCE:
                    logits[self._closing] += 12
                if not guide.is_idle:
                    guide.mask(logits)
                token = int(logits.argmax())
                assert np.isfinite(logits[token])
            if token in self.model.eog_tokens:
                break
            guide.accept(token, self.model.piece(token))
            said += self.model.piece(token)
            if guide.is_complete:
                break
        return said.decode("utf-8", "replace")

    def guide(self, format_: ToolFormat, use: ToolUse) -> Guide:
        held = asyncio.run(CallGrammars(self.compiler, format_).hold(use))
        assert held.make is not None
        return held.make()


@pytest.fixture(scope="module")
def noise() -> Iterator[Noise]:
    noise = Noise()
    yield noise
    noise.compiler.close()
    noise.model.close()


def tools(*schemas: dict[str, Any]) -> tuple[Tool, ...]:
    return tuple(
        Tool(f"tool.{i}", {"type": "object", **schema}, f"tools.{i}.function.parameters")
        for i, schema in enumerate(schemas)
    )


def read(format_: ToolFormat, text: str) -> tuple[str, list[tuple[str, Any]]]:
    splitter = format_.splitter(held=True)
    said = [*splitter.push(text), *splitter.finish()]
    arguments: dict[int, str] = {}
    names = [one.name for one in said if isinstance(one, CallDelta) and one.name is not None]
    for one in said:
        if isinstance(one, CallDelta):
            arguments[one.index] = arguments.get(one.index, "") + one.arguments
    content = "".join(one for one in said if isinstance(one, str))
    return content, [(name, json.loads(arguments[i])) for i, name in enumerate(names)]


@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_arguments_are_valid_for_the_schema(noise: Noise, format_: ToolFormat, schema: dict[str, Any]) -> None:
    use = ToolUse(tools(schema), required=True, parallel=False)
    for seed in range(3):
        guide = noise.guide(format_, use)
        content, calls = read(format_, noise.go_on(guide, seed=seed))
        assert guide.is_complete
        assert content == ""
        ((name, arguments),) = calls
        assert name == "tool.0"
        jsonschema.Draft202012Validator({"type": "object", **schema}).validate(arguments)


@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
def test_call_that_was_begun_freely_is_held_and_the_next_one_too(noise: Noise, format_: ToolFormat) -> None:
    declared = tools({"properties": {"n": {"type": "integer", "minimum": 3, "maximum": 7}}, "required": ["n"]}, {})
    guide = noise.guide(format_, ToolUse(declared, required=False, parallel=True))
    for token in noise.model.tokenize("Let me "):
        assert guide.is_idle
        guide.accept(token, noise.model.piece(token))
    first = noise.go_on(_one_call(guide), f"see. {format_.opening}")
    second = noise.go_on(_one_call(guide), format_.opening, seed=1)
    content, calls = read(format_, first + second)
    assert content == "see."
    assert len(calls) == 2
    assert not guide.is_complete
    assert all(arguments == {} or 3 <= arguments["n"] <= 7 for _, arguments in calls)


def _one_call(guide: Guide) -> Guide:
    return _OneCall(guide)


class _OneCall:
    """A guide that is complete where the one that it passes everything on to leaves a call."""

    def __init__(self, guide: Guide) -> None:
        self._guide = guide
        self._has_held = False

    @property
    def is_idle(self) -> bool:
        return self._guide.is_idle

    @property
    def is_complete(self) -> bool:
        return self._has_held and self._guide.is_idle

    def forced(self) -> int | None:
        return self._guide.forced()

    def mask(self, logits: Any) -> None:
        self._has_held = True
        self._guide.mask(logits)

    def accept(self, token: int, piece: bytes) -> None:
        self._guide.accept(token, piece)


@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
def test_answer_ends_with_its_call_where_there_may_be_but_one(noise: Noise, format_: ToolFormat) -> None:
    guide = noise.guide(format_, ToolUse(tools({}), required=False, parallel=False))
    text = noise.go_on(guide, format_.opening)
    assert guide.is_complete
    assert text.endswith(format_.closing)
    assert len(read(format_, text)[1]) == 1


@pytest.mark.parametrize(
    ("format_", "schema", "param"),
    [
        (HERMES, {"properties": {"a": {"type": "SECRET"}}}, "tools.0.function.parameters.properties.a"),
        (HERMES, {"properties": {"a": False}, "required": ["a"]}, "tools.0.function.parameters"),
        (GEMMA4, {"properties": {"a": {"const": '<|"|>'}}}, "tools.0.function.parameters"),
        (
            GEMMA4,
            {"properties": {"a": {"allOf": [{"type": "string"}, {"minLength": 1}]}}},
            "tools.0.function.parameters",
        ),
    ],
)
def test_schema_that_cannot_be_held_to_is_refused_only_where_a_call_is_required(
    noise: Noise, format_: ToolFormat, schema: dict[str, Any], param: str
) -> None:
    with pytest.raises(ToolError) as caught:
        noise.guide(format_, ToolUse(tools(schema), required=True, parallel=True))
    assert caught.value.param == param
    assert "SECRET" not in str(caught.value)
    guide = noise.guide(format_, ToolUse(tools(schema), required=False, parallel=False))
    ((_, arguments),) = read(format_, noise.go_on(guide, format_.opening))[1]
    assert isinstance(arguments, dict)
