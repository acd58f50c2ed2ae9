"""Grammars over a real vocabulary. What is drawn from is noise: what comes out right does so by the grammar alone."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.llamacpp.grammar import N_KEPT_GRAMMARS, Grammar, GrammarCompiler
from backends.llamacpp.grammar_errors import GrammarError
from backends.llamacpp.guide import GuideError
from backends.llamacpp.native import Model
from tests.backends.llamacpp.worker import MODEL

MAX_TOKENS = 400
CLOSING = ('"', '"}', '"]', "}", "]", '",', '":')


class Noise:
    """Answers of a model whose logits are noise, and which wants to come to an end after a while."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.compiler = GrammarCompiler(model)
        closing = [token for text in CLOSING for token in model.tokenize(text)]
        self._closing = np.array([*closing, *model.eog_tokens])

    def answer(self, grammar: Grammar, seed: int = 0, *, patience: int = 30) -> str | None:
        """None where it comes to no end."""
        random = np.random.default_rng(seed)
        guide = grammar.begin()
        said = b""
        for n_tokens in range(MAX_TOKENS):
            if guide.is_complete:
                return said.decode()
            token = guide.forced()
            if token is None:
                logits = random.normal(size=self.model.n_vocab).astype(np.float32)
                if n_tokens > patience:
                    logits[self._closing] += 10
                guide.mask(logits)
                token = int(logits.argmax())
                assert np.isfinite(logits[token])
            guide.accept(token, self.model.piece(token))
            said += self.model.piece(token)
        return None

    def json(self, schema: Any, seed: int = 0) -> Any:
        """A whole answer, valid for the schema."""
        text = self.answer(asyncio.run(self.compiler.json_schema(schema)), seed)
        assert text is not None
        value = json.loads(text)
        jsonschema.Draft202012Validator(schema).validate(value)
        return value


@pytest.fixture(scope="module")
def noise() -> Iterator[Noise]:
    model = Model(MODEL, n_gpu_layers=0)
    noise = Noise(model)
    yield noise
    noise.compiler.close()
    model.close()


def refusal(noise: Noise, schema: Any) -> GrammarError:
    with pytest.raises(GrammarError) as caught:
        asyncio.run(noise.compiler.json_schema(schema))
    return caught.value


def integers() -> st.SearchStrategy[dict[str, Any]]:
    bounds = st.tuples(st.integers(-1000, 1000), st.integers(0, 5000))
    return bounds.map(lambda b: {"type": "integer", "minimum": b[0], "maximum": b[0] + b[1]})


def strings() -> st.SearchStrategy[dict[str, Any]]:
    lengths = st.tuples(st.integers(0, 5), st.integers(0, 20))
    return st.one_of(
        st.just({"type": "string"}),
        lengths.map(lambda n: {"type": "string", "minLength": n[0], "maxLength": n[0] + n[1]}),
        st.sampled_from(["^[a-c]{2,4}$", r"^\d{3}-\d{2}$", "^(đúng|sai)$", "^[一-龥]{1,3}$"]).map(
            lambda pattern: {"type": "string", "pattern": pattern}
        ),
        st.sampled_from(["date", "time", "date-time", "uuid", "ipv4"]).map(lambda f: {"type": "string", "format": f}),
    )


CHARACTERS = st.characters(max_codepoint=0x1FFFF, exclude_categories=["Cs"])
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.text(CHARACTERS, max_size=6))
NAMES = st.one_of(
    st.sampled_from(["tên bệnh nhân", "年龄", "Nguyễn", "a", "b/c~d", 'say "x"', "back\\slash", "😀", "new\nline", ""]),
    st.text(CHARACTERS, max_size=5),
)
SIMPLE = st.one_of(
    integers(),
    strings(),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "number"}, {"type": ["string", "null"]}]),
    st.lists(VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    VALUES.map(lambda value: {"const": value}),
)


def objects(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def made(draw: st.DrawFn) -> dict[str, Any]:
        properties = draw(st.dictionaries(NAMES, inner, max_size=4))
        required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": draw(st.booleans()),
        }

    return made()


def arrays(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def made(draw: st.DrawFn) -> dict[str, Any]:
        least = draw(st.integers(0, 2))
        return {"type": "array", "items": draw(inner), "minItems": least, "maxItems": least + draw(st.integers(0, 3))}

    return made()


SCHEMAS = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        objects(inner), arrays(inner), st.lists(inner, min_size=1, max_size=3).map(lambda some: {"anyOf": some})
    ),
    max_leaves=6,
).map(lambda schema: {**schema, "$schema": "https://json-schema.org/draft/2020-12/schema"})


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(schema=SCHEMAS, seed=st.integers(0, 2**32 - 1))
def test_noise_is_valid_for_any_schema(noise: Noise, schema: dict[str, Any], seed: int) -> None:
    noise.json(schema, seed)


def test_property_names_and_values_of_any_script_come_out_whole(noise: Noise) -> None:
    schema = {
        "type": "object",
        "properties": {
            "họ tên": {"enum": ["Nguyễn Thị Ánh", "Trần Đức"]},
            "城市": {"enum": ["河内", "胡志明市", "🏙️"]},
        },
        "required": ["họ tên", "城市"],
        "additionalProperties": False,
    }
    seen = [noise.json(schema, seed) for seed in range(12)]
    assert {value["城市"] for value in seen} == {"河内", "胡志明市", "🏙️"}


def test_recursive_schema_ends_where_it_may(noise: Noise) -> None:
    node = {"type": "object", "properties": {"child": {"$ref": "#/$defs/node"}}, "additionalProperties": False}
    noise.json({"$ref": "#/$defs/node", "$defs": {"node": node}})


def test_alternatives_told_apart_by_a_constant_may_be_one_of_several(noise: Noise) -> None:
    def kind(name: str) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {"kind": {"const": name}, name: {"type": "boolean"}},
            "required": ["kind"],
        }

    noise.json({"oneOf": [kind("cat"), kind("dog")]})


def test_blanks_have_an_end(noise: Noise) -> None:
    """A model that wants nothing but white space is held to a little of it."""
    grammar = asyncio.run(noise.compiler.json_object())
    blank = [token for token in range(noise.model.n_vocab) if noise.model.piece(token).isspace()]
    guide = grammar.begin()
    said = b""
    for _ in range(200):
        logits = np.zeros(noise.model.n_vocab, np.float32)
        logits[blank] = 10
        guide.mask(logits)
        token = int(logits.argmax())
        guide.accept(token, noise.model.piece(token))
        said += noise.model.piece(token)
        if said.split()[1:]:
            break
    assert len(said) < 40


def test_blanks_can_be_left_out(noise: Noise) -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"a": {"const": 1}, "b": {"const": 2}},
        "required": ["a", "b"],
    }
    schema["additionalProperties"] = False
    assert noise.answer(asyncio.run(noise.compiler.json_schema(schema, blanks=False))) == '{"a":1,"b":2}'


def test_control_tokens_are_no_text(noise: Noise) -> None:
    """A model's end-of-turn token must not be taken for the letters it is written with."""
    guide = asyncio.run(noise.compiler.choice(["<|im_end|>"])).begin()
    logits = np.zeros(noise.model.n_vocab, np.float32)
    guide.mask(logits)
    assert np.isneginf(logits[sorted(noise.model.marker_tokens)]).all()
    assert noise.answer(asyncio.run(noise.compiler.choice(["<|im_end|>"]))) == "<|im_end|>"


def test_marker_that_is_a_token_is_written_as_one(noise: Noise) -> None:
    compiler = noise.compiler
    lark = f'start: {compiler.marker("<|im_start|>")} {compiler.marker("<call>")} "x"'
    guide = asyncio.run(compiler.lark(lark)).begin()
    logits = np.zeros(noise.model.n_vocab, np.float32)
    assert guide.forced() == noise.model.tokenize("<|im_start|>", parse_special=True)[0]
    guide.mask(logits)
    assert np.isfinite(logits).sum() == 1
    assert noise.answer(asyncio.run(compiler.lark(lark))) == "<call>x"


def test_what_has_to_come_is_forced_in_the_models_own_tokens(noise: Noise) -> None:
    text = "a rather long sentence that leaves no choice"
    guide = asyncio.run(noise.compiler.choice([text])).begin()
    forced = []
    while (token := guide.forced()) is not None:
        forced.append(token)
        guide.accept(token, noise.model.piece(token))
    assert forced == noise.model.tokenize(text)[: len(forced)]
    assert len(forced) > 4


@pytest.mark.parametrize("choices", [["có", "không", "有"], ["a", "ab", 'q"\\\n'], ["x"]])
def test_choice_is_one_of_those_given(noise: Noise, choices: list[str]) -> None:
    grammar = asyncio.run(noise.compiler.choice(choices))
    assert {noise.answer(grammar, seed) for seed in range(8)} <= set(choices)


@pytest.mark.parametrize(
    ("pattern", "example"), [(r"\d{3}-[a-c]+/x", "123-abc/x"), ("^(yes|no)$", "yes"), ("đ{2}", "đđ")]
)
def test_text_matches_the_whole_pattern(noise: Noise, pattern: str, example: str) -> None:
    assert re.fullmatch(pattern, example)
    said = noise.answer(asyncio.run(noise.compiler.regex(pattern)))
    assert said is not None
    assert re.fullmatch(pattern, said, re.ASCII if "d" in pattern else 0)


def test_grammars_come_in_lark_and_in_gbnf(noise: Noise) -> None:
    lark = asyncio.run(noise.compiler.lark_or_gbnf('start: "ja" | "nein"'))
    gbnf = asyncio.run(noise.compiler.lark_or_gbnf('root ::= "ja" | "nein"'))
    assert {noise.answer(lark, seed) for seed in range(8)} == {"ja", "nein"}
    assert {noise.answer(gbnf, seed) for seed in range(8)} == {"ja", "nein"}


@pytest.mark.parametrize(
    ("schema", "place", "said"),
    [
        ({"properties": {"a/b": {"items": {"type": "SECRET"}}}}, "/properties/a~1b/items", "type"),
        ({"anyOf": [{"type": "null"}, {"uniqueItems": True}]}, "/anyOf/1", "uniqueItems"),
        ({"properties": {"x": {"$ref": "#/$defs/d"}}, "$defs": {"d": {"not": {}}}}, "/$defs/d", "not"),
        ({"properties": {"x": {"$ref": "#/$defs/SECRET"}}}, "/properties/x", "$ref"),
        ({"$ref": "https://example.com/SECRET.json"}, "", "$ref"),
        ({"items": {"type": "string", "pattern": "(?=SECRET)"}}, "/items", "lookarounds"),
        ({"items": {"type": "string", "pattern": "(SECRET"}}, "/items", "regular expression"),
        ({"items": {"type": "string", "format": "SECRET"}}, "/items", "format"),
        ({"properties": ["SECRET"]}, "", "wrong type"),
        ({"properties": {"a": {"minLength": "SECRET"}}}, "/properties/a", ""),
        ({"type": "object", "properties": {"SECRET": False}, "required": ["SECRET"]}, "", "nothing fits"),
        ({"$ref": "#"}, "", "nothing fits"),
        ("SECRET", "", "not a JSON object"),
        ([], "", "not a JSON object"),
    ],
)
def test_bad_schema_is_refused_by_its_place_and_not_by_its_words(
    noise: Noise, schema: Any, place: str, said: str
) -> None:
    error = refusal(noise, schema)
    assert error.place == place
    assert said in error.message
    assert "SECRET" not in error.message


def test_bad_grammars_are_refused_by_their_lines(noise: Noise) -> None:
    async def refused(text: str) -> str:
        with pytest.raises(GrammarError) as caught:
            await noise.compiler.lark_or_gbnf(text)
        return caught.value.message

    assert asyncio.run(refused("start: SECRET")) == "line 1, column 8: a rule is not defined"
    assert asyncio.run(refused('root ::= "a"\nb ::= [')) == "line 2: it cannot be read"
    assert "SECRET" not in asyncio.run(refused("root ::= SECRET"))
    with pytest.raises(GrammarError, match="a regular expression cannot be read"):
        asyncio.run(noise.compiler.regex("(SECRET"))
    with pytest.raises(GrammarError, match="nothing to choose"):
        asyncio.run(noise.compiler.choice([]))


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        nested(100),
        {"properties": {f"p{i}": {} for i in range(2000)}},
        {"enum": ["x" * 300_000]},
        {"enum": list(range(30_000))},
        {"allOf": [{"anyOf": [{"properties": {f"p{i}{j}": {"type": "string"}}} for j in range(4)]} for i in range(12)]},
        {"type": "integer", "multipleOf": 999_999_937},
        {"type": "string", "pattern": "a{3,10000}"},
        {"enum": ["\U00040000"]},
    ],
)
def test_schema_that_costs_too_much_is_refused(noise: Noise, schema: dict[str, Any]) -> None:
    refusal(noise, schema)


@pytest.mark.parametrize(
    "schema",
    [
        nested(60),
        {"type": "string", "minLength": 1, "maxLength": 10**9},
        {"type": "array", "items": {"type": "integer"}, "maxItems": 10**9},
        {"type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$"},
        {
            "$defs": {"a40": {"type": "null"}}
            | {f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(40)}
        }
        | {"$ref": "#/$defs/a0"},
    ],
)
def test_schema_that_only_looks_costly_is_taken(noise: Noise, schema: dict[str, Any]) -> None:
    noise.json(schema)


@pytest.mark.parametrize(
    "lark",
    [
        'start: foo\nfoo: "a" foo',
        "start: /a{9999}/ /a{9999}/",
        'start: x{9999}\nx: y{9999}\ny: "a"',
        'start: x x x x x x x x\nx: "a"* | x x | ',
    ],
)
def test_grammar_that_costs_too_much_to_follow_ends_in_an_error(noise: Noise, lark: str) -> None:
    guide = asyncio.run(noise.compiler.lark(lark)).begin()
    token = noise.model.tokenize("a")[0]
    logits = np.zeros(noise.model.n_vocab, np.float32)

    def follow() -> None:
        for _ in range(2000):
            guide.mask(logits)
            guide.accept(token, b"a")

    with pytest.raises(GuideError, match=r"complex|too long|left its grammar"):
        follow()


def test_grammar_is_compiled_once_and_the_oldest_is_forgotten(noise: Noise) -> None:
    async def compiled() -> None:
        compiler = GrammarCompiler(noise.model)
        compiler._tokens = noise.compiler._tokens
        first = await compiler.regex("first")
        assert await compiler.regex("first") is first
        for i in range(N_KEPT_GRAMMARS):
            await compiler.regex(f"r{i}")
        assert await compiler.regex("first") is not first
        compiler.close()

    asyncio.run(noise.compiler.json_object())
    asyncio.run(compiled())


def test_compiling_that_takes_too_long_is_given_up(noise: Noise) -> None:
    compiler = GrammarCompiler(noise.model, timeout_s=0)
    with pytest.raises(GrammarError, match="longer than 0 s"):
        asyncio.run(compiler.regex("a"))
    compiler.close()
