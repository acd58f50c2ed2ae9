"""Calls of tools by each architecture in its own notation: forced, streamed, and with their results fed back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.llamacpp.worker import Client, Worker, started, user

CHAT = "/v1/chat/completions"
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Huế", "Paris"]},
        "days": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Tell it", "parameters": PARAMETERS}}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "Tell it"}}
# A random model never ends a thought by itself.
BODY = {
    "messages": [user("Will it rain?")],
    "tools": [WEATHER, CLOCK],
    "enable_thinking": False,
    "max_tokens": 120,
    "seed": 7,
}
NAMED = {"type": "function", "function": {"name": "weather"}}


@pytest.fixture(scope="module", params=["qwen3", "qwen2", "gemma4"])
def tiny(request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]) -> Iterator[Worker]:
    with started("--n-ctx", "1024", model=tiny_model(request.param)) as worker:
        yield worker


@pytest.fixture
async def client(tiny: Worker) -> AsyncIterator[Client]:
    async with tiny.client() as client:
        yield client


async def called(client: Client, **fields: Any) -> dict[str, Any]:
    (choice,) = (await client.ok(CHAT, {**BODY, **fields}))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    message: dict[str, Any] = choice["message"]
    return message


@pytest.mark.parametrize("temperature", [0, 1.5])
async def test_named_tool_is_called_with_what_it_takes(client: Client, temperature: float) -> None:
    message = await called(client, tool_choice=NAMED, temperature=temperature)
    (call,) = message["tool_calls"]
    assert call["function"]["name"] == "weather"
    arguments = json.loads(call["function"]["arguments"])
    assert arguments["city"] in ("Huế", "Paris")
    assert isinstance(arguments["days"], int)
    assert not message.get("content")


async def test_one_of_the_tools_is_called_where_it_is_required(client: Client) -> None:
    for call in (await called(client, tool_choice="required"))["tool_calls"]:
        assert call["function"]["name"] in ("weather", "clock")
        assert isinstance(json.loads(call["function"]["arguments"]), dict)


async def test_streamed_call_is_the_whole_call(client: Client) -> None:
    body = {**BODY, "tool_choice": NAMED, "temperature": 0}
    (whole,) = (await client.ok(CHAT, body))["choices"][0]["message"]["tool_calls"]
    seen = await client.stream(CHAT, body)
    parts = [part for choice in seen.choices() for part in choice["delta"].get("tool_calls", ())]
    assert parts[0]["function"]["name"] == "weather"
    assert "".join(part["function"].get("arguments", "") for part in parts) == whole["function"]["arguments"]
    assert seen.finish() == "tool_calls"


async def test_result_of_a_call_is_answered(client: Client) -> None:
    (call,) = (await called(client, tool_choice=NAMED, temperature=0))["tool_calls"]
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": call["id"], "content": "It rains"}
    body = {**BODY, "messages": [user("Will it rain?"), asked, result], "tool_choice": "none", "max_tokens": 8}
    prompt = await client.ok("/tokenize", {**body, "return_token_strs": True})
    assert "It rains" in "".join(prompt["token_strs"])
    (choice,) = (await client.ok(CHAT, body))["choices"]
    assert choice["message"]["content"]
    assert not choice["message"].get("tool_calls")
