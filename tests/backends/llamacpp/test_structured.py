"""Structured output as clients ask for it: the fields, their refusals, and answers of a real worker."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import jsonschema
import pytest

from backends.llamacpp.requests import ApiError
from backends.llamacpp.structured import Constraint, Kind, constraint
from tests.backends.llamacpp.test_requests import chat, completion
from tests.backends.llamacpp.worker import Client, user

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "tên": {"type": "string", "maxLength": 12},
        "tuổi": {"type": "integer", "minimum": 0, "maximum": 120},
        "城市": {"enum": ["河内", "Huế"]},
    },
    "required": ["tên", "tuổi", "城市"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": SCHEMA}}
ANY_OBJECT = {"type": "object"}


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Constraint(Kind.JSON_SCHEMA, ANY_OBJECT, "response_format")),
        ({"response_format": FORMAT}, Constraint(Kind.JSON_SCHEMA, SCHEMA, "response_format.json_schema.schema")),
        ({"guided_json": SCHEMA}, Constraint(Kind.JSON_SCHEMA, SCHEMA, "guided_json")),
        ({"guided_json": json.dumps(SCHEMA)}, Constraint(Kind.JSON_SCHEMA, SCHEMA, "guided_json")),
        ({"guided_regex": "a+"}, Constraint(Kind.REGEX, "a+", "guided_regex")),
        ({"guided_choice": ["a"]}, Constraint(Kind.CHOICE, ["a"], "guided_choice")),
        ({"guided_grammar": "start: A"}, Constraint(Kind.GRAMMAR, "start: A", "guided_grammar")),
        (
            {"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}},
            Constraint(Kind.JSON_SCHEMA, SCHEMA, "structured_outputs.json", blanks=False),
        ),
        (
            {"structured_outputs": {"json_object": True}},
            Constraint(Kind.JSON_SCHEMA, ANY_OBJECT, "structured_outputs.json_object"),
        ),
        ({"structured_outputs": {"regex": "a"}}, Constraint(Kind.REGEX, "a", "structured_outputs.regex")),
        ({"structured_outputs": {"choice": ["a"]}}, Constraint(Kind.CHOICE, ["a"], "structured_outputs.choice")),
        ({"structured_outputs": {"grammar": "x"}}, Constraint(Kind.GRAMMAR, "x", "structured_outputs.grammar")),
    ],
)
def test_every_spelling_is_understood(fields: dict[str, Any], asked: Constraint | None) -> None:
    assert constraint(chat(**fields)) == constraint(completion(**fields)) == asked


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "SECRET"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": "SECRET"}}},
            "response_format.json_schema.schema",
        ),
        ({"guided_json": "{SECRET"}, "guided_json"),
        ({"guided_regex": "a", "guided_choice": ["SECRET"]}, "guided_choice"),
        ({"response_format": FORMAT, "structured_outputs": {"regex": "SECRET"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs.regex"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"choice": "SECRET"}}, "structured_outputs.choice"),
        ({"structured_outputs": {"structural_tag": "SECRET"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"json": {}, "whitespace_pattern": "SECRET"}}, "structured_outputs.whitespace_pattern"),
        ({"guided_regex": "a", "continue_final_message": True}, "continue_final_message"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        constraint(chat(**fields))
    assert (caught.value.status, caught.value.param) == (400, param)
    assert param in caught.value.message
    assert "SECRET" not in caught.value.message


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        (
            {"guided_json": {"properties": {"a": {"type": "SECRET"}}}},
            "guided_json",
            "guided_json at /properties/a: type is none of JSON's",
        ),
        ({"guided_regex": "(SECRET"}, "guided_regex", "guided_regex: a regular expression cannot be read"),
        ({"guided_choice": []}, "guided_choice", "guided_choice: there is nothing to choose from"),
        (
            {"guided_grammar": "start: SECRET"},
            "guided_grammar",
            "guided_grammar: line 1, column 8: a rule is not defined",
        ),
    ],
)
@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_bad_shape_is_a_400_that_names_the_place(
    client: Client, path: str, fields: dict[str, Any], param: str, said: str
) -> None:
    status, error = await client.error(path, {"messages": [user("x")], "prompt": "x", **fields})
    assert (status, error["param"], error["message"]) == (400, param, said)


def person(text: str) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(text))


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 2, "n": 4},
        {"temperature": 0, "min_tokens": 100},
        {"temperature": 2, "ignore_eos": True, "top_k": 3},
        {"temperature": 2, "top_p": 0.1, "min_p": 0.5, "repetition_penalty": 2.0, "presence_penalty": 2},
        {"temperature": 1, "stop": ['"', "}", "\n"]},
    ],
)
async def test_answer_is_valid_for_its_schema(client: Client, fields: dict[str, Any]) -> None:
    answer = await client.chat("A person.", response_format=FORMAT, max_tokens=300, **fields)
    for choice in answer["choices"]:
        assert choice["finish_reason"] == "stop"
        person(choice["message"]["content"])


async def test_bias_against_what_is_needed_is_overruled(client: Client) -> None:
    tokens = {token for text in ("{", '{"', '"', "}", '"}') for token in await client.tokens_of(text)}
    answer = await client.complete(
        "JSON:", guided_json=SCHEMA, temperature=2, max_tokens=300, logit_bias={str(token): -100 for token in tokens}
    )
    assert answer["choices"][0]["finish_reason"] == "stop"
    person(answer["choices"][0]["text"])


async def test_shapes_of_a_batch_do_not_meet(client: Client) -> None:
    """Held to schemas, to a choice, to a pattern, to a grammar, and free: all in the same steps."""
    held = [client.complete("JSON:", guided_json=SCHEMA, temperature=2, max_tokens=300, seed=seed) for seed in range(4)]
    choice = client.complete("Yes or no?", guided_choice=["yes", "no"], temperature=2)
    pattern = client.complete("Number:", structured_outputs={"regex": r"\d{3}-\d{4}"}, temperature=2)
    grammar = client.complete("Say:", guided_grammar='root ::= "ha"+ "!"', temperature=2, max_tokens=40)
    lost = client.error(TEXT, {"prompt": "a", "guided_grammar": 'start: foo\nfoo: "a" foo', "max_tokens": 50})
    alone = await client.complete("1, 2, 3,", temperature=0, max_tokens=24)
    free, chosen, matched, laughed, (status, error), *people = await asyncio.gather(
        client.complete("1, 2, 3,", temperature=0, max_tokens=24), choice, pattern, grammar, lost, *held
    )
    for answer in people:
        assert answer["choices"][0]["finish_reason"] == "stop"
        person(answer["choices"][0]["text"])
    assert chosen["choices"][0]["text"] in ("yes", "no")
    assert re.fullmatch(r"\d{3}-\d{4}", matched["choices"][0]["text"])
    assert re.fullmatch("(ha)+!?", laughed["choices"][0]["text"])
    assert free["choices"][0]["text"] == alone["choices"][0]["text"]
    assert (status, error["code"]) == (500, "engine_failed")
    assert "grammar" in error["message"]


async def test_streamed_answer_is_valid_for_its_schema(client: Client) -> None:
    body = {"messages": [user("A person.")], "response_format": FORMAT, "temperature": 2, "max_tokens": 300, "n": 2}
    seen = await client.stream(CHAT, body)
    for index in range(2):
        assert seen.finish(index) == "stop"
        person(seen.text(index))


async def test_answer_cut_by_its_budget_says_so(client: Client) -> None:
    answer = await client.chat("A person.", response_format=FORMAT, max_tokens=3)
    assert answer["choices"][0]["finish_reason"] == "length"
