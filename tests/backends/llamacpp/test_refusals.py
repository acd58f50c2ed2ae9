"""What the OpenAI API of a real worker refuses, and how it says so."""

from __future__ import annotations

import json

import pytest

from tests.backends.llamacpp.worker import Client, assistant, user

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [
        (CHAT, b"{", 400, "invalid_json", None),
        (CHAT, b"\xff\xfe", 400, "invalid_json", None),
        (CHAT, [], 400, "invalid_value", None),
        (CHAT, {}, 400, "invalid_value", "messages"),
        (CHAT, {"messages": []}, 400, "invalid_value", "messages"),
        (CHAT, {"messages": [user("x")], "temperature": "hot"}, 400, "invalid_value", "temperature"),
        (CHAT, {"messages": [user("x")], "model": "other"}, 404, "model_not_found", "model"),
        (CHAT, {"messages": [user("x")], "tools": [{"a": 1}]}, 400, "invalid_value", "tools.0.type"),
        (CHAT, {"messages": [user("x")], "logprobs": 5}, 400, "invalid_value", "logprobs"),
        (CHAT, {"messages": [user("x")], "top_logprobs": 2}, 400, "invalid_value", "top_logprobs"),
        (CHAT, {"messages": [user("x")], "logprobs": True, "top_logprobs": 21}, 400, "invalid_value", "top_logprobs"),
        (CHAT, {"messages": [user("x")], "reasoning_effort": "utmost"}, 400, "invalid_value", "reasoning_effort"),
        (CHAT, {"messages": [user("x")], "thinking_token_budget": -2}, 400, "invalid_value", "thinking_token_budget"),
        (CHAT, {"messages": [user("x")], "max_tokens": 3, "min_tokens": 4}, 400, "invalid_value", "min_tokens"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
            400,
            "images_not_supported",
            "messages",
        ),
        (CHAT, {"messages": [user("x " * 2000)]}, 400, "context_length_exceeded", "prompt"),
        (TEXT, {"prompt": "x " * 2000}, 400, "context_length_exceeded", "prompt"),
        (TEXT, {"prompt": ""}, 400, "invalid_value", "prompt"),
        (TEXT, {"prompt": []}, 400, "invalid_value", "prompt"),
        (TEXT, {"prompt": [[]]}, 400, "invalid_value", "prompt"),
        (TEXT, {"prompt": [49152]}, 400, "invalid_value", "prompt"),
        (TEXT, {"prompt": [-1]}, 400, "invalid_value", "prompt"),
        (TEXT, {"prompt": [[2**40]]}, 400, "invalid_value", "prompt"),
        (TEXT, {"prompt": "x", "logit_bias": {"49152": 1}}, 400, "invalid_value", "logit_bias"),
        (TEXT, {"prompt": "x", "logprobs": 21}, 400, "invalid_value", "logprobs"),
        (TEXT, {"prompt": "x", "logprobs": -1}, 400, "invalid_value", "logprobs"),
        (TEXT, {"prompt": "x", "suffix": "y"}, 400, "unsupported_parameter", "suffix"),
        (TEXT, {"prompt": "x", "suffix": "y", "echo": True}, 400, "invalid_value", "echo"),
        (TEXT, {"prompt": "x", "max_tokens": 0}, 400, "invalid_value", "max_tokens"),
        (TEXT, {"prompt": "x", "n": 3, "best_of": 2}, 400, "invalid_value", "best_of"),
        (TEXT, {"prompt": "x", "best_of": 21}, 400, "invalid_value", "best_of"),
        (TEXT, {"prompt": "x", "best_of": 2, "stream": True}, 400, "invalid_value", "best_of"),
        (TEXT, {"prompt": "x", "min_tokens": 17}, 400, "invalid_value", "min_tokens"),
        (TEXT, {"prompt": "x", "stop_token_ids": [49152]}, 400, "invalid_value", "stop_token_ids"),
        (TEXT, {"prompt": "x", "bad_words": [""]}, 400, "invalid_value", "bad_words"),
        (TEXT, {"prompt": "x", "bad_words": ["y"] * 1001}, 400, "invalid_value", "bad_words"),
        (TEXT, {"prompt": "x", "prompt_logprobs": 1}, 400, "unsupported_parameter", "prompt_logprobs"),
        (TEXT, {"prompt": ["x"] * 2000}, 503, "queue_full", None),
        ("/detokenize", {"tokens": [49152]}, 400, "invalid_value", "tokens"),
        ("/tokenize", {"prompt": "x", "messages": [user("x")]}, 400, "invalid_value", None),
        ("/v1/nowhere", {}, 404, "not_found", None),
        ("/v1/models", {}, 405, "method_not_allowed", None),
    ],
)
async def test_what_cannot_be_done_is_refused(
    client: Client, path: str, body: object, status: int, code: str, param: str | None
) -> None:
    answer_status, error = await client.error(path, body)
    assert (answer_status, error["code"], error["param"]) == (status, code, param)
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")


def nested(depth: int) -> bytes:
    return b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "chat_template_kwargs": {"x": %s}}' % (
        b"[" * depth + b"]" * depth
    )


@pytest.mark.parametrize("depth", [10, 400, 600, 1000])
async def test_value_nested_however_deeply_is_answered_or_refused(client: Client, depth: int) -> None:
    status, answer = await client.post(CHAT, nested(depth))
    assert status == 200 or (depth > 10 and status == 400), answer


@pytest.mark.parametrize("calls", [5, "x", [5], {"a": 1}, [{"function": 5}], [{"function": {"arguments": "{"}}]])
async def test_tool_calls_of_any_shape_do_no_harm(client: Client, calls: object) -> None:
    past = {**assistant("Hi"), "tool_calls": calls}
    answer = await client.ok(CHAT, {"messages": [user("x"), past, user("y")], "max_tokens": 1})
    assert answer["usage"]["completion_tokens"] == 1


async def test_refused_stream_keeps_its_status(client: Client) -> None:
    body = {"messages": [user("x " * 2000)], "stream": True}
    status, error = await client.error(CHAT, body)
    assert (status, error["code"]) == (400, "context_length_exceeded")


async def test_prompt_may_fill_the_context_but_for_one_token(client: Client) -> None:
    full = await client.complete([1000] * 1023, max_tokens=50)
    assert full["usage"]["completion_tokens"] == 1
    status, _ = await client.error(TEXT, {"prompt": [1000] * 1024})
    assert status == 400


async def test_errors_are_json_whatever_the_accept_header(client: Client) -> None:
    async with client.session.post(CHAT, data=b"{", headers={"Accept": "text/html"}) as response:
        assert response.content_type == "application/json"
        assert json.loads(await response.read())["error"]["code"] == "invalid_json"
