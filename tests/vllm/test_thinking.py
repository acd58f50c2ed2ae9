"""What the model thinks, told apart from what it says by vLLM's own parser."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.client import CHAT, Client, Json, chat, chunks, content_of

CAPITAL = "What is the capital of France?"


def thoughtful(**fields: Any) -> Json:
    """A question that is thought about for a few tokens and then answered with some."""
    return chat(CAPITAL, max_tokens=40, min_tokens=30, thinking_token_budget=10, enable_thinking=True, **fields)


def test_reasoning_is_beside_the_content_in_both_spellings(client: Client) -> None:
    body = client.post(CHAT, thoughtful()).json()
    message = body["choices"][0]["message"]
    assert message["reasoning_content"].strip()
    assert message["reasoning"] == message["reasoning_content"]
    assert message["content"].strip()
    assert "think>" not in message["content"] + message["reasoning"]
    assert 0 < body["usage"]["completion_tokens_details"]["reasoning_tokens"] <= 12


def test_streamed_reasoning_comes_first_in_both_spellings(client: Client) -> None:
    found = chunks(client.streamed(CHAT, thoughtful(stream=True)))
    deltas = [choice["delta"] for chunk in found for choice in chunk["choices"]]
    reasoning = [delta["reasoning_content"] for delta in deltas if delta.get("reasoning_content")]
    assert reasoning == [delta["reasoning"] for delta in deltas if delta.get("reasoning")]
    assert "".join(reasoning).strip()
    assert content_of(found).strip()
    said = [bool(delta.get("content")) for delta in deltas if delta.get("content") or delta.get("reasoning")]
    assert said == sorted(said)


@pytest.mark.parametrize("off", [{}, {"enable_thinking": False}, {"reasoning_effort": "none"}], ids=str)
def test_without_thinking_everything_is_content(client: Client, off: Json) -> None:
    message = client.post(CHAT, chat(CAPITAL, max_tokens=30, **off)).json()["choices"][0]["message"]
    assert "Paris" in message["content"]
    assert not message.get("reasoning_content")
    assert not message.get("reasoning")


def test_template_arguments_are_another_way_to_say_so(client: Client) -> None:
    asked = chat(CAPITAL, max_tokens=20, chat_template_kwargs={"enable_thinking": True})
    assert client.post(CHAT, asked).json()["choices"][0]["message"]["reasoning_content"]


def test_thought_without_an_end_is_no_content(client: Client) -> None:
    message = client.post(CHAT, chat(CAPITAL, max_tokens=3, enable_thinking=True)).json()["choices"][0]["message"]
    assert message["reasoning_content"]
    assert not message["content"]


def test_simple_chat_tells_reasoning_and_response_apart(client: Client) -> None:
    asked = {key: value for key, value in thoughtful().items() if key != "messages"}
    told = client.post("/chat", {**asked, "message": CAPITAL}).json()
    assert told["response"].strip()
    assert told["reasoning"].strip()
    assert "think>" not in told["response"]
    assert "reasoning" not in client.post("/chat", {"message": CAPITAL, "max_tokens": 20}).json()
