"""What the llama.cpp engine does beyond plain text, through the gateway, as the `openai` SDK asks for it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionToolParam
from pydantic import BaseModel, ConfigDict

from tests.e2e.client import CHAT, COMPLETIONS, Client, Json, chat, chunks, error_of, user
from tests.e2e.program import KEY

MODEL = "smollm2-135m"
WARD = "Which beds are free on ward 7? Use the tool."
TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "free_beds",
        "description": "Free beds of a ward",
        "parameters": {
            "type": "object",
            "properties": {"ward": {"type": "integer"}, "isolated": {"type": "boolean"}},
            "required": ["ward", "isolated"],
            "additionalProperties": False,
        },
    },
}


class Vitals(BaseModel):
    model_config = ConfigDict(extra="forbid")

    pulse: int
    alert: bool


@pytest.fixture
def sdk(demo: Client) -> Iterator[OpenAI]:
    with OpenAI(base_url=demo.base_url + "/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_required_tool_call_is_made_and_its_result_is_taken(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": WARD}],
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=200,
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "free_beds"
    assert isinstance(json.loads(call.function.arguments)["ward"], int)
    after = sdk.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "user", "content": WARD},
            {"role": "assistant", "content": None, "tool_calls": [{**call.model_dump(), "type": "function"}]},  # type: ignore[list-item]
            {"role": "tool", "tool_call_id": call.id, "content": '{"free": [3, 5]}'},
        ],
        tools=[TOOL],
        max_tokens=8,
    )
    assert after.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_streamed_tool_call_is_put_together_by_the_sdk(sdk: OpenAI) -> None:
    with sdk.chat.completions.stream(
        model=MODEL,
        messages=[{"role": "user", "content": WARD}],
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "free_beds"}},
        max_tokens=200,
    ) as stream:
        (choice,) = stream.get_final_completion().choices
    assert choice.message.tool_calls
    assert choice.message.tool_calls[0].function.name == "free_beds"
    assert set(json.loads(choice.message.tool_calls[0].function.arguments)) == {"ward", "isolated"}


def test_sdk_parses_a_structured_answer(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "Pulse 72, no alert. As JSON."}],
        response_format=Vitals,
        temperature=1.5,
        max_tokens=300,
    )
    assert isinstance(answer.choices[0].message.parsed, Vitals)


def test_a_schema_nobody_can_follow_is_refused(demo: Client) -> None:
    schema: Json = {"type": "json_schema", "json_schema": {"name": "bad", "schema": {"type": "nonsense"}}}
    error = error_of(demo.post(CHAT, chat(response_format=schema)), 400)
    assert str(error["param"]).startswith("response_format")
    assert "nonsense" not in error["message"]


def test_sdk_gets_logprobs_whole_and_streamed(sdk: OpenAI) -> None:
    whole = sdk.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hello"}], max_tokens=4, logprobs=True, top_logprobs=3
    )
    found = whole.choices[0].logprobs
    assert found is not None
    assert found.content
    for entry in found.content:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) >= 3
        assert math.fsum(math.exp(top.logprob) for top in entry.top_logprobs) <= 1.01
    with sdk.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hello"}], max_tokens=4, logprobs=True, stream=True
    ) as stream:
        streamed = [chunk.choices[0].logprobs for chunk in stream if chunk.choices]
    assert any(some is not None and some.content for some in streamed)


def test_completion_echoes_its_prompt_where_asked(demo: Client) -> None:
    body: Json = {"prompt": "One, two,", "max_tokens": 3, "echo": True, "temperature": 0}
    whole = demo.post(COMPLETIONS, body).json()["choices"][0]["text"]
    assert whole.startswith("One, two,")
    streamed = chunks(demo.streamed(COMPLETIONS, {**body, "stream": True}))
    assert "".join(choice["text"] for chunk in streamed for choice in chunk["choices"]) == whole


def test_simple_form_takes_a_schema_too(demo: Client) -> None:
    body: Json = {"message": "A pulse?", "guided_json": Vitals.model_json_schema(), "max_tokens": 200}
    Vitals.model_validate_json(demo.post("/chat", body).json()["response"])


def test_image_is_refused_by_a_service_for_text(demo: Client) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    refused = demo.post(CHAT, {"messages": [user([{"type": "text", "text": "What is this?"}, image])]})
    assert error_of(refused, 400)["code"] == "images_not_supported"


def test_tool_that_is_not_declared_cannot_be_chosen(demo: Client) -> None:
    body = chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "another"}})
    assert str(error_of(demo.post(CHAT, body), 400)["param"]).startswith("tool_choice")
