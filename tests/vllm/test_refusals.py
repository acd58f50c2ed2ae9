"""What vLLM refuses reaches the client in the one shape that errors have."""

from __future__ import annotations

import json

import pytest

from tests.e2e.client import CHAT, COMPLETIONS, Client, Json, chat, error_of, user

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
BROKEN_SCHEMA = {"type": "json_schema", "json_schema": {"name": "broken", "schema": {"type": "no such type"}}}
NO_TOOL = {"type": "function", "function": {"name": "nothing"}}


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": True, "top_logprobs": 1000},
        {"response_format": BROKEN_SCHEMA},
        {"tool_choice": NO_TOOL},
        {"thinking_token_budget": -5},
        {"logit_bias": {"99999999": 1}},
        {"min_tokens": 20, "max_tokens": 10},
        {"stop": ""},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_refused_chat_is_the_clients_mistake(client: Client, fields: Json, stream: bool) -> None:
    error = error_of(client.post(CHAT, {**chat(stream=stream), **fields}), 400)
    assert error["type"] == "invalid_request_error"
    assert isinstance(error["code"], str)


@pytest.mark.parametrize("fields", [{"prompt": [10**8]}, {"prompt": "Hello", "logprobs": 1000}], ids=json.dumps)
def test_refused_completion_is_the_clients_mistake(client: Client, fields: Json) -> None:
    assert error_of(client.post(COMPLETIONS, fields), 400)["type"] == "invalid_request_error"


def test_other_refusals_have_the_status_of_the_contract(client: Client) -> None:
    assert error_of(client.post(CHAT, chat(model="nope")), 404)["code"] == "model_not_found"
    assert error_of(client.post(CHAT, {"messages": []}), 422)
    assert error_of(client.post(CHAT, chat(max_tokens="many")), 422)
    assert error_of(client.post(CHAT, raw=b"{"), 400)["code"] == "invalid_json"
    assert error_of(client.post(CHAT, chat(temperature=-1)), 400)["param"] == "temperature"
    assert error_of(client.post(CHAT, chat(max_tokens=100000)), 400)["param"] == "max_tokens"
    assert error_of(client.get("/v1/nothing"), 404)
    assert error_of(Client(client.base_url, key="wrong").post(CHAT, chat()), 401)
    with_image = {"messages": [user([{"type": "text", "text": "What is this?"}, IMAGE])]}
    assert error_of(client.post(CHAT, with_image), 400)["code"] == "images_not_supported"


def test_refusal_repeats_no_text_of_the_question(client: Client) -> None:
    refused = client.post(CHAT, chat("the secret word is Zanzibarra", logprobs=True, top_logprobs=1000))
    assert "Zanzibarra" not in refused.text
