"""One request of the suite, as data: the same bytes go to vLLM and to the worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

Json = dict[str, Any]
Check = Callable[[str], bool]
"""Of the text of the first choice, or of the arguments of its first tool call."""

MODEL = "thinker"
N_CTX = 512
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
CAPITAL = "What is the capital of France?"
PLAIN = {"enable_thinking": False}


@dataclass(frozen=True, slots=True)
class Case:
    """`checks` are what has to hold of the answer besides its shape, by a name for the report."""

    name: str
    path: str
    body: Json | bytes | None = None
    method: str = "POST"
    checks: Mapping[str, Check] = field(default_factory=dict)

    @property
    def data(self) -> bytes | None:
        return orjson.dumps(self.body) if isinstance(self.body, dict) else self.body


def user(content: object) -> Json:
    return {"role": "user", "content": content}


def chat(
    name: str, *messages: Json, checks: Mapping[str, Check] | None = None, without: tuple[str, ...] = (), **fields: Any
) -> Case:
    """A chat without thinking and of few tokens at temperature 0, unless `fields` say otherwise."""
    body = {
        "model": MODEL,
        "messages": list(messages) or [user(CAPITAL)],
        "temperature": 0,
        "max_tokens": 4,
        "chat_template_kwargs": PLAIN,
        **fields,
    }
    sent = {field: value for field, value in body.items() if field not in without}
    return Case(f"chat: {name}", CHAT, sent, checks=checks or {})


def text(name: str, prompt: object, *, checks: Mapping[str, Check] | None = None, **fields: Any) -> Case:
    body = {"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 4, **fields}
    return Case(f"text: {name}", TEXT, body, checks=checks or {})


def streamed(case: Case) -> Case:
    """The same with `stream`."""
    assert isinstance(case.body, dict)
    return Case(f"{case.name}, streamed", case.path, {**case.body, "stream": True}, checks=case.checks)


def both(*cases: Case) -> list[Case]:
    return [variant for case in cases for variant in (case, streamed(case))]
