"""Tool calls, parsed by vLLM from what the model writes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.client import CHAT, Client, Json, chat, chunks, user

# `strict` has vLLM hold the arguments to the schema, which a small model would not keep by itself.
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
NAMED = {"type": "function", "function": {"name": "weather"}}


def asked(choice: Any, **fields: Any) -> Json:
    return chat("What is the weather in Huế?", max_tokens=60, tools=[WEATHER], tool_choice=choice, **fields)


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_tool_is_called_with_arguments_of_its_schema(client: Client, choice: Any) -> None:
    body = client.post(CHAT, asked(choice)).json()
    (call,) = body["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert set(json.loads(call["function"]["arguments"])) == {"city"}
    assert call["id"]


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_streamed_call_is_put_together_from_its_pieces(client: Client, choice: Any) -> None:
    found = chunks(client.streamed(CHAT, asked(choice, stream=True)))
    choices = [choice for chunk in found for choice in chunk["choices"]]
    pieces = [call for choice in choices for call in choice["delta"].get("tool_calls") or ()]
    names = [piece["function"]["name"] for piece in pieces if piece["function"].get("name")]
    arguments = "".join(piece["function"].get("arguments") or "" for piece in pieces)
    assert names == ["weather"]
    assert set(json.loads(arguments)) == {"city"}
    assert choices[-1]["finish_reason"] in ("tool_calls", "stop")


def test_result_of_a_tool_goes_back_to_the_model(client: Client) -> None:
    call = {"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Huế"}'}}
    messages = [
        user("What is the weather in Huế?"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call-1", "content": "31 degrees, sunny"},
    ]
    answer = client.post(CHAT, {"messages": messages, "tools": [WEATHER], "max_tokens": 20})
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
