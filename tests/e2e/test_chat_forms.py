"""`/chat` in its three spellings."""

from __future__ import annotations

import re

import pytest

from tests.e2e.client import Client, Json, chunks, content_of, user
from tests.e2e.program import Program

FEW: Json = {"max_tokens": 6, "temperature": 0}
THREE_WORDS: Json = {"max_tokens": 3}
QUESTION = "What is blue?"
"""The first three words of the answer are far from tied: a prompt found in the cache cannot tip the scale."""


def response_of(client: Client, **fields: object) -> Json:
    answer = client.post("/chat", {**FEW, **fields})
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


@pytest.mark.parametrize(
    "form",
    [
        {"message": "Hello", "system": "Be brief.", "temperature": 0.5},
        {"prompt": "Hello", "system_prompt": "Be brief.", "enable_thinking": True},
        {"prompt": "Hello", "enable_thinking": False, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1},
        {"message": "Hello", "stream": False},
        {"message": None, "prompt": "Hello", "messages": None},
    ],
)
def test_simple_forms_answer_json(demo: Client, form: Json) -> None:
    body = response_of(demo, **form)
    assert set(body) >= {"response", "model", "elapsed_time", "usage"}
    assert isinstance(body["response"], str)
    assert body["model"] == "smollm2-135m"
    assert re.fullmatch(r"\d+\.\d\ds", body["elapsed_time"])
    usage = body["usage"]
    assert usage["completion_tokens"] <= FEW["max_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_elapsed_time_is_that_of_the_answer(demo: Client) -> None:
    body = response_of(demo, message="Tell me a story", max_tokens=40, ignore_eos=True)
    assert body["usage"]["completion_tokens"] == 40
    assert 0 < float(body["elapsed_time"].removesuffix("s")) < 60


def test_both_simple_spellings_are_one_and_the_same(demo: Client) -> None:
    said = [
        response_of(demo, **{question: QUESTION, system: "Answer as a pirate."}, **THREE_WORDS)
        for question in ("message", "prompt")
        for system in ("system", "system_prompt")
    ]
    assert len({body["response"] for body in said}) == 1
    assert len({body["usage"]["prompt_tokens"] for body in said}) == 1


def test_system_prompt_reaches_the_model(demo: Client) -> None:
    plain = response_of(demo, message="Hello")["usage"]["prompt_tokens"]
    assert response_of(demo, message="Hello", system="Many words. " * 50)["usage"]["prompt_tokens"] > plain + 50


@pytest.mark.parametrize(
    "form",
    [
        {"messages": [user("Hello")]},
        {"messages": [user("Hello")], "stream": False},
        {"messages": [user("Hello")], "stream": True, "message": None},
        {"message": "Hello", "stream": True},
        {"prompt": "Hello", "system_prompt": "Be brief.", "stream": True},
    ],
)
def test_messages_always_stream_and_simple_forms_when_asked(demo: Client, form: Json) -> None:
    found = chunks(demo.streamed("/chat", {**FEW, **form}))
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in found)
    assert content_of(found)
    assert found[-1]["choices"][0]["finish_reason"] in ("stop", "length")


def test_all_forms_say_the_same(demo: Client) -> None:
    whole = response_of(demo, message=QUESTION, **THREE_WORDS)["response"]
    for form in ({"messages": [user(QUESTION)]}, {"message": QUESTION, "stream": True}):
        assert content_of(chunks(demo.streamed("/chat", {**FEW, **form, **THREE_WORDS}))) == whole


def test_forms_are_the_same_on_every_service(server: Program) -> None:
    for path in ("/qwen3", "/gemma4", "/gemma2", "/qwen"):
        client = Client(server.url(path))
        whole = response_of(client, message=QUESTION, **THREE_WORDS)["response"]
        assert response_of(client, prompt=QUESTION, **THREE_WORDS)["response"] == whole
        body = {**FEW, **THREE_WORDS, "messages": [user(QUESTION)]}
        assert content_of(chunks(client.streamed("/chat", body))) == whole
