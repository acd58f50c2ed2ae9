"""What is asked of engines of each dialect, and what their answers and errors mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Dialect
from gguf_server import token_estimate
from gguf_server.dialect_bodies import translate
from gguf_server.dialect_errors import error_fields, status_of
from gguf_server.dialects import can_continue, continuation_fields, count_text, count_tokens, without_beginning
from gguf_server.errors import BadRequest, ModelNotFound

VLLM, LLAMA_SERVER, OPENAI = Dialect.VLLM, Dialect.LLAMA_SERVER, Dialect.OPENAI
MESSAGES = [{"role": "user", "content": "Where is Paris?"}]
CHAT: dict[str, Any] = {"model": "m", "messages": MESSAGES}

Answer = Callable[[dict[str, Any]], dict[str, Any]]


class Engine:
    """Answers by path, and remembers what it was asked. A path that it does not have is a 404."""

    def __init__(self, **answers: Answer | dict[str, Any] | Exception) -> None:
        self.answers = {"/" + path.replace("__", "/"): answer for path, answer in answers.items()}
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((path, body))
        answer = self.answers.get(path)
        if answer is None:
            raise ModelNotFound("File Not Found")
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, dict) else answer(body)


async def test_vllm_counts_a_chat_as_it_is() -> None:
    engine = Engine(tokenize={"count": 42})
    assert await count_tokens(VLLM, engine.post, {**CHAT, "tools": []}) == 42
    assert engine.asked == [("/tokenize", {**CHAT, "tools": []})]


async def test_llama_server_counts_a_chat_as_it_would_answer_it() -> None:
    engine = Engine(v1__chat__completions__input_tokens={"input_tokens": 24})
    body = {**CHAT, "chat_template_kwargs": {"enable_thinking": False}, "temperature": 1}
    assert await count_tokens(LLAMA_SERVER, engine.post, body) == 24
    asked = {key: value for key, value in body.items() if key != "temperature"}
    assert engine.asked == [("/v1/chat/completions/input_tokens", asked)]


async def test_older_llama_server_is_asked_for_the_prompt_and_then_for_its_tokens() -> None:
    engine = Engine(**{"apply-template": {"prompt": "<s>Where"}}, tokenize={"tokens": [1, 2, 3]})
    assert await count_tokens(LLAMA_SERVER, engine.post, CHAT) == 3
    assert engine.asked[1:] == [
        ("/apply-template", CHAT),
        ("/tokenize", {"content": "<s>Where", "add_special": True, "parse_special": True}),
    ]


@pytest.mark.parametrize("dialect", [VLLM, LLAMA_SERVER])
async def test_messages_that_the_template_refuses_have_no_count(dialect: Dialect) -> None:
    refusal = BadRequest("roles must alternate")
    engine = Engine(tokenize=refusal, v1__chat__completions__input_tokens=refusal)
    assert await count_tokens(dialect, engine.post, CHAT) is None


async def test_text_is_counted_without_special_tokens() -> None:
    engine = Engine(tokenize=lambda body: {"count": 2} if "prompt" in body else {"tokens": [7, 8, 9]})
    assert await count_text(VLLM, engine.post, "Paris") == 2
    assert await count_text(LLAMA_SERVER, engine.post, "Paris") == 3
    assert [body for _, body in engine.asked] == [
        {"prompt": "Paris", "add_special_tokens": False},
        {"content": "Paris", "add_special": False},
    ]


async def test_server_that_cannot_count_is_not_asked() -> None:
    engine = Engine()
    assert await count_text(OPENAI, engine.post, "Paris") == 2
    assert await count_tokens(OPENAI, engine.post, CHAT) == token_estimate.of_chat(CHAT)
    assert engine.asked == []


@pytest.mark.parametrize(
    ("text", "n_tokens"),
    [("", 0), ("abcdef", 2), ("2026", 4), ("f(x);", 4), ("đau", 2), ("患者", 3), ("a", 1)],
)
def test_estimate_goes_by_what_the_bytes_are(text: str, n_tokens: int) -> None:
    assert token_estimate.of_text(text) == n_tokens


@given(st.text(), st.text())
def test_estimate_of_a_longer_text_is_no_smaller_and_never_over_its_bytes(one: str, other: str) -> None:
    both = token_estimate.of_text(one + other)
    assert both >= token_estimate.of_text(one)
    assert both <= len((one + other).encode()) + 1


def test_estimate_of_a_chat_counts_images_tools_and_every_message() -> None:
    text = token_estimate.of_chat(CHAT)
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:" + "A" * 9000}}]}
    assert token_estimate.of_chat({"messages": [image]}) == pytest.approx(2048, abs=100)
    assert token_estimate.of_chat({"messages": MESSAGES * 2}) > text
    assert token_estimate.of_chat({**CHAT, "tools": [{"type": "function"}]}) > text
    silent = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
    parts = {"role": "user", "content": [{"type": "text", "text": "Where is Paris?"}]}
    assert token_estimate.of_chat({"messages": [silent]}) > token_estimate.of_chat({"messages": []}) + 16
    assert token_estimate.of_chat({"messages": [parts]}) == text


def test_only_openai_cannot_go_on_with_a_begun_answer() -> None:
    assert [can_continue(dialect) for dialect in Dialect] == [True, True, False]
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    assert continuation_fields(VLLM) == continuation_fields(LLAMA_SERVER) == fields
    with pytest.raises(ValueError, match="cannot continue"):
        continuation_fields(OPENAI)


def continued(**begun: object) -> dict[str, Any]:
    return {"messages": [*MESSAGES, {"role": "assistant", **begun}], "continue_final_message": True}


def said(**message: object) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", **message}}]}


@pytest.mark.parametrize(
    ("body", "answer", "rest"),
    [
        (continued(content="The capital of Fr"), said(content="The capital of France"), said(content="ance")),
        (
            continued(content="It is ", reasoning_content="Easy."),
            said(content="It is Paris", reasoning_content="Easy.\n"),
            said(content="Paris", reasoning_content=""),
        ),
        (
            continued(content="", reasoning_content="Eas"),
            said(content="Paris", reasoning_content="Easy.\n"),
            said(content="Paris", reasoning_content="y.\n"),
        ),
        (continued(content=[{"type": "text", "text": "It"}]), said(content="It is"), said(content="It is")),
        ({"messages": MESSAGES}, said(content="Where"), said(content="Where")),
    ],
)
def test_whole_answer_of_llama_server_loses_the_beginning_it_repeats(
    body: dict[str, Any], answer: dict[str, Any], rest: dict[str, Any]
) -> None:
    assert without_beginning(LLAMA_SERVER, body, answer) == rest


def test_whole_answer_of_another_engine_is_left_alone() -> None:
    body, answer = continued(content="na"), said(content="na batman")
    assert without_beginning(VLLM, body, answer) == said(content="na batman")


def test_vllm_is_sent_what_was_written_for_it() -> None:
    body = {**CHAT, "min_tokens": 3, "top_k": -1}
    assert translate(VLLM, body) == body


@pytest.mark.parametrize(
    ("given_fields", "sent"),
    [
        ({"repetition_penalty": 1.1}, {"repeat_penalty": 1.1}),
        ({"thinking_token_budget": 64}, {"reasoning_budget_tokens": 64}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 20}, {"top_k": 20}),
        ({"top_logprobs": 0}, {}),
        ({"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
        ({"guided_json": {"type": "object"}}, {"json_schema": {"type": "object"}}),
        ({"guided_json": '{"type": "object"}'}, {"json_schema": {"type": "object"}}),
        ({"structured_outputs": {"json": {"type": "array"}}}, {"json_schema": {"type": "array"}}),
        ({"guided_grammar": "root ::= x"}, {"grammar": "root ::= x"}),
        ({"structured_outputs": {"choice": ["yes", 'a "b"']}}, {"grammar": 'root ::= "yes" | "a \\"b\\""'}),
        ({"guided_regex": "[0-9]+"}, {}),
        ({"stream": True}, {"stream": True, "sse_ping_interval": -1}),
        ({"tool_choice": "auto", "tools": []}, {"tool_choice": "auto", "tools": []}),
    ],
)
def test_llama_server_is_sent_its_own_names(given_fields: dict[str, Any], sent: dict[str, Any]) -> None:
    body = {**CHAT, **given_fields}
    assert translate(LLAMA_SERVER, body) == {**CHAT, **sent}
    assert body == {**CHAT, **given_fields}


def test_named_tool_is_the_only_one_that_llama_server_is_shown() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
    sent = translate(LLAMA_SERVER, {**CHAT, "tools": tools, "tool_choice": {"function": {"name": "g"}}})
    assert (sent["tool_choice"], sent["tools"]) == ("required", tools[1:])
    unknown = {"function": {"name": "h"}}
    assert translate(LLAMA_SERVER, {**CHAT, "tools": tools, "tool_choice": unknown})["tools"] == tools


def test_llama_server_reads_reasoning_by_its_older_name() -> None:
    thought = {"role": "assistant", "content": "", "reasoning": "Easy."}
    both = {**thought, "reasoning_content": "Easy."}
    for message in (thought, both):
        (sent,) = translate(LLAMA_SERVER, {"messages": [message]})["messages"]
        assert sent == {"role": "assistant", "content": "", "reasoning_content": "Easy."}


def test_vllm_is_asked_for_a_shape_in_its_newer_spelling() -> None:
    for older, newer in (("json", {"type": "object"}), ("regex", "a+"), ("choice", ["a"]), ("grammar", "start: A")):
        sent = translate(VLLM, {"prompt": "Hi", f"guided_{older}": newer})
        assert sent == {"prompt": "Hi", "structured_outputs": {older: newer}}
    for body in (
        {"guided_regex": "a", "guided_choice": ["a"]},
        {"guided_regex": "a", "structured_outputs": {}},
        {"n": 1},
    ):
        assert translate(VLLM, body) == body


def test_server_of_openais_api_is_sent_nothing_that_openai_does_not_have() -> None:
    thought = {"role": "assistant", "content": "Paris", "reasoning": "Easy.", "reasoning_content": "Easy."}
    own = {"model": "m", "max_tokens": 5, "temperature": 0.5, "stop": ["x"], "seed": 1}
    more = {"top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1, "chat_template_kwargs": {"enable_thinking": False}}
    alone = {"tool_choice": "auto", "parallel_tool_calls": True, "stream_options": {"include_usage": True}}
    sent = translate(OPENAI, {**own, **more, **alone, "messages": [thought]})
    assert sent == {**own, "messages": [{"role": "assistant", "content": "Paris"}]}


def test_server_of_openais_api_keeps_what_goes_with_tools_and_with_a_stream() -> None:
    body = {"tools": [{"type": "function"}], "tool_choice": "auto", "stream": True, "stream_options": {}}
    assert translate(OPENAI, body) == body
    assert translate(OPENAI, {"prompt": "Hi", "guided_json": {"type": "object"}})["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}},
    }


def llama_error(message: str, **more: object) -> dict[str, Any]:
    return {"error": {"code": 400, "message": message, "type": "invalid_request_error", **more}}


LONG = llama_error(
    "request (810 tokens) exceeds the available context size (256 tokens), try increasing it",
    type="exceed_context_size_error",
    n_prompt_tokens=810,
    n_ctx=256,
)
TEMPLATE = llama_error("Unable to generate parser.\n---\nError: Jinja Exception: Roles must alternate")
FIELD = llama_error("Field 'n': Value must be between 1 <= value <= 2, but got 3")
IMAGE = llama_error("image input is not supported - hint: you may need to provide the mmproj", code=500)
TOOLS = llama_error('Failed to parse tools: Missing tool type: {"a": "private"}; tools = [{"a": "private"}]', code=500)
BASE64 = llama_error("Invalid base64 value", code=500)
BUSY = llama_error("Compute error.", code=500)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (
            LONG,
            (
                "this model's maximum context length is 256 tokens; the prompt has 810",
                "messages",
                "context_length_exceeded",
            ),
        ),
        (TEMPLATE, ("the chat template refuses these messages: Roles must alternate", "messages", None)),
        (FIELD, ("Field 'n': Value must be between 1 <= value <= 2, but got 3", "n", None)),
        (IMAGE, ("image input is not supported", "messages", "images_not_supported")),
        (TOOLS, ("Failed to parse tools: Missing tool type: ...", None, None)),
        ({"error": {"message": "no", "type": "x", "param": "top_p", "code": 400}}, ("no", "top_p", None)),
        ({"error": {"message": "no", "param": None, "code": "bad"}}, ("no", None, "bad")),
        (
            {"error": {"message": "the input length exceeds the context length", "param": None, "code": None}},
            ("the input length exceeds the context length", None, "context_length_exceeded"),
        ),
        (
            {"error": "prompt: context length exceeded"},
            ("prompt: context length exceeded", None, "context_length_exceeded"),
        ),
        ({"error": "Unauthorized"}, ("Unauthorized", None, None)),
        ({"detail": "Not Found"}, ("Not Found", None, None)),
        (
            {"detail": [{"loc": ["body", "top_k"], "msg": "Extra inputs are not permitted", "input": "private"}]},
            ("Extra inputs are not permitted", "top_k", None),
        ),
        ({"detail": []}, ("the engine refused", None, None)),
        ({}, ("the engine refused", None, None)),
    ],
)
def test_errors_of_every_shape_are_told_in_one(
    body: dict[str, Any], fields: tuple[str, str | None, str | None]
) -> None:
    assert error_fields(body) == fields


@pytest.mark.parametrize(
    ("status", "body", "amounts_to"),
    [(500, IMAGE, 400), (500, TOOLS, 400), (500, BASE64, 400), (500, BUSY, 500), (503, IMAGE, 503), (500, {}, 500)],
)
def test_500_that_any_engine_would_give_is_the_clients_mistake(
    status: int, body: dict[str, Any], amounts_to: int
) -> None:
    assert status_of(status, body) == amounts_to
