"""The service's API, answered by a real vLLM."""

from __future__ import annotations

import json

import pytest

from tests.e2e.client import CHAT, COMPLETIONS, MODELS, Client, Json, chat, chunks, content_of
from tests.vllm.chains import MODEL, VLLM, Chain

CAPITAL = "What is the capital of France?"
LINES = ("Người Việt ở Huế.\n", "你好，世界。\n")


def test_health_and_status_say_that_vllm_serves(chain: Chain) -> None:
    health = chain.client.get("/health").json()
    assert (health["status"], health["engine"], health["vllm_server"]) == ("healthy", VLLM, "healthy")
    assert chain.client.get("/").json()["vllm_ready"] is True
    first, second = chain.status()["engines"]
    assert (first["state"], first["last_failure"], first["starts"]) == ("ready", None, 1)
    assert (second["state"], second["starts"]) == ("stopped", 0)


def test_models_are_listed_with_their_context(client: Client) -> None:
    (entry,) = client.get(MODELS).json()["data"]
    assert (entry["id"], entry["max_model_len"]) == (MODEL, 2048)


def test_chat_is_answered_sensibly_and_says_by_whom(client: Client) -> None:
    answer = client.post(CHAT, chat(CAPITAL, max_tokens=30))
    assert answer.status_code == 200, answer.text
    assert (answer.headers["x-engine"], answer.headers["x-engine-failovers"]) == (VLLM, "0")
    body = answer.json()
    assert body["model"] == MODEL
    (choice,) = body["choices"]
    assert "Paris" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


def test_stream_says_the_same_as_the_whole_answer(client: Client) -> None:
    asked = chat(CAPITAL, max_tokens=30)
    whole = client.post(CHAT, asked).json()
    first, *rest = chunks(client.streamed(CHAT, {**asked, "stream": True, "stream_options": {"include_usage": True}}))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert content_of(rest) == whole["choices"][0]["message"]["content"]
    assert rest[-1]["choices"] == []
    assert rest[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert not any(chunk.get("usage") for chunk in rest[:-1])


def test_stream_without_the_wish_for_usage_has_none(client: Client) -> None:
    assert not any(chunk.get("usage") for chunk in chunks(client.streamed(CHAT, chat(stream=True))))


@pytest.mark.parametrize("line", LINES, ids=["vi", "zh"])
def test_text_of_other_scripts_comes_in_whole_characters(client: Client, line: str) -> None:
    """The model repeats what it has read often enough; its tokens are parts of characters."""
    asked = {"prompt": line * 8, "max_tokens": 40, "stream": True}
    found = chunks(client.streamed(COMPLETIONS, asked))
    pieces = [choice["text"] for chunk in found for choice in chunk["choices"]]
    text = "".join(pieces)
    assert text.startswith(line[:4])
    assert sum(ord(char) > 127 for char in text) > 4
    assert not any("\ufffd" in piece for piece in pieces[:-1])  # the budget may end inside a character


def test_text_completion_goes_on_with_its_prompt(client: Client) -> None:
    asked = {"prompt": "The capital of France is", "max_tokens": 4}
    answer = client.post(COMPLETIONS, asked)
    assert answer.headers["x-engine"] == VLLM
    (choice,) = answer.json()["choices"]
    assert "Paris" in choice["text"]
    streamed = chunks(client.streamed(COMPLETIONS, {**asked, "stream": True}))
    assert "".join(choice["text"] for chunk in streamed for choice in chunk["choices"]) == choice["text"]


@pytest.mark.parametrize("body", [{"message": CAPITAL}, {"prompt": CAPITAL}], ids=["message", "prompt"])
def test_simple_chat_is_json(client: Client, body: Json) -> None:
    answer = client.post("/chat", {**body, "system": "You are a helpful assistant.", "max_tokens": 30})
    assert answer.headers["x-engine"] == VLLM
    told = answer.json()
    assert "Paris" in told["response"]
    assert told["model"] == MODEL
    assert told["usage"]["completion_tokens"] > 0


def test_simple_chat_with_messages_is_a_stream(client: Client) -> None:
    found = chunks(client.streamed("/chat", chat(CAPITAL, max_tokens=30)))
    assert "Paris" in content_of(found)


def test_answer_follows_a_schema(client: Client) -> None:
    schema = {
        "type": "object",
        "properties": {"capital": {"type": "string", "maxLength": 12}},
        "required": ["capital"],
        "additionalProperties": False,
    }
    format_ = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    answer = client.post(CHAT, chat(CAPITAL, max_tokens=60, response_format=format_))
    assert set(json.loads(answer.json()["choices"][0]["message"]["content"])) == {"capital"}


def test_stop_ends_an_answer_before_it_is_said(client: Client) -> None:
    answer = client.post(CHAT, chat(CAPITAL, max_tokens=30, stop=["Paris"]))
    (choice,) = answer.json()["choices"]
    assert "France" in choice["message"]["content"]
    assert "Paris" not in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"


def test_log_holds_no_text_of_questions_and_answers(chain: Chain) -> None:
    question = "Is the unicorn of Nowhere called Zanzibarra?"
    chain.client.post(CHAT, chat(question, max_tokens=16))
    assert "Zanzibarra" not in chain.program.printed()
