"""The clients of the contract, unchanged: curl, `requests`, the `openai` SDK for Python, and what is built on it."""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
import requests
from openai import OpenAI
from pydantic import BaseModel, Field

from tests.e2e.client import CHAT, COMPLETIONS, DONE, MODELS, Client, Json, chat, chunks, content_of, error_of
from tests.e2e.program import KEY, OTHER_KEY, Program

MODEL = "smollm2-135m"

# The small model goes on with each of them once it has read a few; its tokens are seldom whole characters of theirs.
REFRAINS = {
    "Vietnamese": "Một hai ba bốn năm sáu bảy tám chín mười. ",
    "Chinese": "一二三四五六七八九十，",
    "emoji": "🌍🎉🇻🇳, ",
}


def curl(*arguments: str) -> str:
    line = ("curl", "--silent", "--show-error", "--fail-with-body", *arguments)
    done = subprocess.run(line, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.decode()


def test_curl_chats(demo: Client) -> None:
    bearer = ("-H", f"Authorization: Bearer {KEY}")
    body = json.dumps(chat("Xin chào! 你好！"), ensure_ascii=False)
    answer = json.loads(curl(demo.base_url + CHAT, *bearer, "-H", "Content-Type: application/json", "-d", body))
    assert answer["choices"][0]["message"]["content"]
    assert json.loads(curl(demo.base_url + "/chat", *bearer, "-d", '{"message": "Hello", "max_tokens": 4}'))["response"]
    assert json.loads(curl(demo.base_url + "/health"))["status"] == "healthy"


def test_curl_streams(demo: Client) -> None:
    body = json.dumps(chat(stream=True))
    printed = curl("-N", demo.base_url + CHAT, "-H", f"Authorization: Bearer {KEY}", "-d", body)
    *parts, rest = printed.split("\n\n")
    assert rest == ""
    assert all(part.startswith("data: ") for part in parts)
    assert parts[-1] == f"data: {DONE}"


def test_requests_reads_lines_as_they_come(demo: Client) -> None:
    pieces = []
    body = chat(stream=True)
    with requests.post(demo.base_url + CHAT, json=body, headers=demo.headers, stream=True, timeout=60) as response:
        assert response.encoding == "utf-8"
        for line in response.iter_lines(decode_unicode=True):
            if not line:
                continue
            data = line.removeprefix("data: ")
            if data == DONE:
                break
            pieces.append(json.loads(data)["choices"][0]["delta"].get("content") or "")
    assert "".join(pieces)


@pytest.fixture
def sdk(demo: Client) -> Iterator[OpenAI]:
    """As the operators' documentation sets it up: the key is a default header."""
    bearer = {"Authorization": f"Bearer {KEY}"}
    with OpenAI(base_url=demo.base_url + "/v1", api_key="not-needed", default_headers=bearer) as client:
        yield client


class Weather(BaseModel):
    """The weather of a city."""

    city: str = Field(max_length=8)
    unit: Literal["C", "F"]


def test_python_sdk_calls_tools_and_sends_their_results(sdk: OpenAI) -> None:
    tools = [openai.pydantic_function_tool(Weather)]
    messages: list[Any] = [{"role": "user", "content": "The weather in Paris?"}]
    with sdk.chat.completions.stream(
        model=MODEL, messages=messages, tools=tools, tool_choice="required", parallel_tool_calls=False, max_tokens=80
    ) as stream:
        pieces = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
        (choice,) = stream.get_final_completion().choices
    assert pieces
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Weather)
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "31 degrees"}]
    answer = sdk.chat.completions.create(model=MODEL, messages=messages, tools=tools, tool_choice="none", max_tokens=6)
    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls is None


def test_python_sdk_chats(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model=MODEL,
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        max_tokens=6,
        extra_body={
            "top_k": 20,
            "min_p": 0.05,
            "repetition_penalty": 1.1,
            "enable_thinking": False,
            "chat_template_kwargs": {"enable_thinking": False},
        },
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 6
    assert answer._request_id


def test_python_sdk_streams(sdk: OpenAI) -> None:
    stream = sdk.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Hello"}],
        max_completion_tokens=6,
        stream=True,
        stream_options={"include_usage": True},
    )
    with stream:
        found = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in found if chunk.choices)
    assert found[-1].usage is not None


def test_python_sdk_completes_text(sdk: OpenAI) -> None:
    answer = sdk.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=6)
    assert answer.choices[0].text
    with sdk.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=6, stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream)


def test_python_sdk_lists_models(sdk: OpenAI) -> None:
    (card,) = sdk.models.list()
    assert card.id == MODEL
    assert (card.model_extra or {})["max_model_len"] == 8192
    assert sdk.models.retrieve(MODEL).id == MODEL


def test_python_sdk_raises_its_own_errors(sdk: OpenAI, demo: Client) -> None:
    with pytest.raises(openai.NotFoundError) as not_found:
        sdk.chat.completions.create(model="gpt-none", messages=[{"role": "user", "content": "Hello"}])
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hello"}], temperature=9)
    with OpenAI(base_url=demo.base_url + "/v1", api_key="wrong") as stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_python_sdk_takes_the_key_as_its_own_too(demo: Client) -> None:
    with OpenAI(base_url=demo.base_url + "/v1", api_key=KEY) as client:
        assert client.models.list().data[0].id == MODEL


@pytest.mark.parametrize(
    ("tokens", "status"),
    [
        (("not-needed", KEY), 200),
        ((KEY, "not-needed"), 200),
        ((KEY, KEY), 200),
        (("", KEY), 200),
        (("undefined", KEY), 200),
        (("not-needed", "nor-this"), 401),
        ((KEY, OTHER_KEY), 401),
    ],
)
def test_two_authorization_headers_count_as_one_where_one_is_right(
    server: Program, tokens: tuple[str, str], status: int
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.putrequest("GET", f"/demo{MODELS}")
        for token in tokens:
            connection.putheader("Authorization", f"Bearer {token}")
        connection.endheaders()
        with connection.getresponse() as response:
            assert response.status == status
            assert (response.getheader("WWW-Authenticate") == "Bearer") is (status == 401)
    finally:
        connection.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"store": True, "user": "somebody", "metadata": {"a": "b"}, "service_tier": "auto"},
        {"parallel_tool_calls": True, "reasoning_effort": "low", "verbosity": "low", "modalities": ["text"]},
        {"max_tokens": None, "max_completion_tokens": 6},
        {"stop": ["a1", "b2", "c3", "d4", "e5", "f6", "g7"]},
        {"stop": "a1"},
        {"response_format": {"type": "text"}, "logprobs": False, "n": 1, "seed": 7, "logit_bias": {}},
        {"field_of_next_year": {"deep": [1, 2]}, "prompt_cache_key": "k", "safety_identifier": "s"},
        {"tools": [], "tool_choice": "none", "functions": None},
        dict.fromkeys(
            (
                "model",
                "temperature",
                "top_p",
                "top_k",
                "min_p",
                "stop",
                "stream",
                "stream_options",
                "seed",
                "n",
                "tools",
            )
        ),
        dict.fromkeys(("tool_choice", "response_format", "logprobs", "logit_bias", "user", "enable_thinking", "store")),
    ],
    ids=str,
)
def test_fields_of_other_clients_are_taken(demo: Client, fields: Json) -> None:
    answer = demo.post(CHAT, {**chat(), **fields})
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] <= 6


def test_langchain_conversation_is_taken(demo: Client) -> None:
    said: list[Json] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}], "name": "somebody"},
        {"role": "assistant", "content": None, "refusal": None, "audio": None, "function_call": None},
        {"role": "user", "content": "Go on"},
    ]
    body = {"model": MODEL, "messages": said, "max_completion_tokens": 5, "n": 1, "stream_options": None}
    as_developer = demo.post(CHAT, body).json()["usage"]["prompt_tokens"]
    said[0]["role"] = "system"
    assert demo.post(CHAT, body).json()["usage"]["prompt_tokens"] == as_developer


def test_newer_name_of_max_tokens_goes_first(demo: Client) -> None:
    body = chat(max_tokens=9, max_completion_tokens=3, ignore_eos=True)
    assert demo.post(CHAT, body).json()["usage"]["completion_tokens"] == 3


def test_any_of_many_stops_ends_the_text(demo: Client) -> None:
    body = {"prompt": "1, 2, 3, 4, 5, 6,", "max_tokens": 24, "temperature": 0}
    assert "8" in demo.post(COMPLETIONS, body).json()["choices"][0]["text"]
    stops = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>", "\n\n", "8"]
    choice = demo.post(COMPLETIONS, {**body, "stop": stops}).json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert "8" not in choice["text"]


@pytest.mark.parametrize("refrain", REFRAINS.values(), ids=REFRAINS)
def test_text_of_any_script_arrives_whole(demo: Client, refrain: str) -> None:
    body: Json = {"prompt": (refrain * 8)[:-4], "max_tokens": 40, "temperature": 0, "ignore_eos": True}
    whole = demo.post(COMPLETIONS, body).json()["choices"][0]["text"]
    streamed = chunks(demo.streamed(COMPLETIONS, {**body, "stream": True}))
    pieces = [choice["text"] for chunk in streamed for choice in chunk["choices"]]
    assert "".join(pieces) == whole
    assert "\ufffd" not in whole[:-1]  # a last character that max_tokens cut in two
    assert refrain.strip() in whole
    assert len([piece for piece in pieces if piece]) > 3


@pytest.mark.parametrize("refrain", REFRAINS.values(), ids=REFRAINS)
def test_chat_of_any_script_arrives_whole(demo: Client, refrain: str) -> None:
    said = [{"role": "user", "content": refrain * 2}, {"role": "assistant", "content": (refrain * 8)[:-4]}]
    body: Json = {"messages": said, "max_tokens": 40, "temperature": 0, "continue_final_message": True}
    whole = demo.post(CHAT, body).json()["choices"][0]["message"]["content"]
    assert content_of(chunks(demo.streamed(CHAT, {**body, "stream": True}))) == whole
    assert "\ufffd" not in whole[:-1]  # a last character that max_tokens cut in two
    assert refrain.strip() in whole


def test_every_spelling_of_the_text_is_the_same_to_the_model(demo: Client) -> None:
    text = "Tiếng Việt 你好 🇻🇳"
    bodies = [json.dumps(chat(text, temperature=0), ensure_ascii=escaped).encode() for escaped in (True, False)]
    answers = [demo.post(CHAT, raw=body).json() for body in bodies]
    assert answers[0]["usage"] | {"prompt_tokens_details": None} == answers[1]["usage"] | {
        "prompt_tokens_details": None
    }
    assert answers[0]["choices"] == answers[1]["choices"]
    error_of(demo.post(CHAT, raw=bodies[1].decode().encode("utf-16")), 400)
