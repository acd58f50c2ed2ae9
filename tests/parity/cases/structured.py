"""Answers that follow a schema, an expression, a choice or a grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from tests.parity.case import Case, Json, both, chat, user

SCHEMA: Json = {
    "type": "object",
    "properties": {"capital": {"type": "string", "maxLength": 8}, "river": {"enum": ["Seine", "Loire"]}},
    "required": ["capital", "river"],
    "additionalProperties": False,
}
WORDS = "(yes|no), (good|bad)"
GRAMMAR = 'root ::= "yes" | "no"'
ASKED = user("Give me the capital of France and its river.")


def follows(test: Callable[[str], object]) -> dict[str, Callable[[str], bool]]:
    def check(said: str) -> bool:
        try:
            return bool(test(said))
        except ValueError:
            return False

    return {"follows": check}


def is_of_schema(said: str) -> bool:
    found = json.loads(said)
    return list(found) == ["capital", "river"] and len(found["capital"]) <= 8 and found["river"] in ("Seine", "Loire")


def is_object(said: str) -> bool:
    return isinstance(json.loads(said), dict)


def json_schema(schema: Json) -> Json:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


SCHEMA_CHECK = follows(is_of_schema)
WORDS_CHECK = follows(lambda said: re.fullmatch(WORDS, said))
CHOICE_CHECK = follows(lambda said: said in ("Paris", "London"))
YES_CHECK = follows(lambda said: said in ("yes", "no"))

CASES: list[Case] = [
    *both(chat("json_schema", ASKED, max_tokens=60, response_format=json_schema(SCHEMA), checks=SCHEMA_CHECK)),
    chat(
        "json_schema at temperature 1",
        ASKED,
        max_tokens=80,
        temperature=1,
        seed=1,
        response_format=json_schema(SCHEMA),
        checks=SCHEMA_CHECK,
    ),
    chat("json_schema cut short", ASKED, max_tokens=4, response_format=json_schema(SCHEMA)),
    chat(
        "json_schema of two",
        ASKED,
        max_tokens=80,
        n=2,
        temperature=1,
        seed=4,
        response_format=json_schema(SCHEMA),
        checks=SCHEMA_CHECK,
    ),
    chat(
        "json_object",
        user('Repeat this: {"city": "Paris"}'),
        max_tokens=80,
        response_format={"type": "json_object"},
    ),
    chat("response_format text", response_format={"type": "text"}),
    chat("structured_outputs json", ASKED, max_tokens=60, structured_outputs={"json": SCHEMA}, checks=SCHEMA_CHECK),
    chat("structured_outputs regex", max_tokens=20, structured_outputs={"regex": WORDS}, checks=WORDS_CHECK),
    *both(
        chat(
            "structured_outputs choice",
            max_tokens=20,
            structured_outputs={"choice": ["Paris", "London"]},
            checks=CHOICE_CHECK,
        )
    ),
    chat("structured_outputs grammar", max_tokens=20, structured_outputs={"grammar": GRAMMAR}, checks=YES_CHECK),
    chat("guided_json", ASKED, max_tokens=60, guided_json=SCHEMA),
    chat("guided_regex", max_tokens=20, guided_regex=WORDS),
    chat("guided_choice", max_tokens=20, guided_choice=["Paris", "London"]),
    chat("guided_grammar", max_tokens=20, guided_grammar=GRAMMAR),
    chat(
        "json_schema after a thought",
        ASKED,
        max_tokens=80,
        chat_template_kwargs={"enable_thinking": True},
        thinking_token_budget=4,
        response_format=json_schema(SCHEMA),
    ),
]
