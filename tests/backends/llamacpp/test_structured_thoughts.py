"""Answers held to a shape by models that think first: tiny ones, whose random words are pushed about by biases."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.backends.llamacpp.worker import Client, started, user

CHAT = "/v1/chat/completions"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "màu": {"enum": ["đỏ", "xanh"]}},
    "required": ["n", "màu"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Thinker:
    client: Client
    opening: str
    closing: str

    async def answer(self, *, bias: Mapping[str, float], **fields: Any) -> dict[str, Any]:
        """The choice of a chat; `bias`: by the texts of tokens, of which the first is meant."""
        biases = {str((await self.client.tokens_of(text))[0]): value for text, value in bias.items()}
        body = {"messages": [user("Hi")], "enable_thinking": True, "max_tokens": 200, "temperature": 0.8, "seed": 3}
        answer = await self.client.ok(CHAT, {**body, "logit_bias": biases, **fields})
        choice: dict[str, Any] = answer["choices"][0]
        return choice

    def check(self, choice: dict[str, Any]) -> None:
        assert choice["finish_reason"] == "stop"
        jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(choice["message"]["content"]))


@pytest.fixture(scope="module", params=["qwen3", "gemma4"])
def worker_and_markers(
    request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]
) -> Iterator[tuple[Any, str, str]]:
    markers = {"qwen3": ("<think>", "</think>"), "gemma4": ("<|channel>thought", "<channel|>")}
    with started("--n-ctx", "640", "--n-parallel", "4", model=tiny_model(request.param)) as worker:
        yield worker, *markers[request.param]


@pytest.fixture
async def thinker(worker_and_markers: tuple[Any, str, str]) -> AsyncIterator[Thinker]:
    worker, opening, closing = worker_and_markers
    async with worker.client() as client:
        yield Thinker(client, opening, closing)


async def test_answer_behind_a_thought_is_held_to_its_schema(thinker: Thinker) -> None:
    """The thought opens itself again and again, until chance ends it."""
    bias = {thinker.opening: 60, thinker.closing: 60}
    choices = [await thinker.answer(bias=bias, guided_json=SCHEMA, seed=seed) for seed in range(6)]
    for choice in choices:
        thinker.check(choice)
    assert any("reasoning" in choice["message"] for choice in choices)


async def test_thought_may_be_as_good_as_empty(thinker: Thinker) -> None:
    choice = await thinker.answer(bias={thinker.opening: 60, thinker.closing: 100}, guided_json=SCHEMA)
    thinker.check(choice)
    assert len(choice["message"].get("reasoning", "")) < 10  # the token that ends a marker may go on


async def test_answer_may_do_without_a_thought(thinker: Thinker) -> None:
    thinker.check(await thinker.answer(bias={thinker.opening: -100}, guided_json=SCHEMA))
    thinker.check(await thinker.answer(bias={thinker.opening: 60}, guided_json=SCHEMA, enable_thinking=False))


@pytest.mark.parametrize("n", [1, 3])
async def test_thought_does_not_end_the_answer(thinker: Thinker, n: int) -> None:
    """Not by an end of text: without its JSON an answer has not been finished. The thought is closed in time for it."""
    ends = {end: 50.0 for end in ("<|im_end|>", "<turn|>") if len(await thinker.client.tokens_of(end)) == 1}
    choice = await thinker.answer(
        bias={thinker.opening: 60, thinker.closing: -100, **ends}, guided_json=SCHEMA, max_tokens=60, n=n
    )
    if choice["finish_reason"] == "stop":
        thinker.check(choice)
    assert choice["message"]["content"].startswith("{")
    assert choice["message"]["reasoning"]


async def test_markers_inside_the_answer_are_text(thinker: Thinker) -> None:
    said = f"one {thinker.opening} two {thinker.closing} three"
    choice = await thinker.answer(bias={thinker.opening: -100}, guided_choice=[said])
    assert choice["message"]["content"] == said
    assert choice["finish_reason"] == "stop"
