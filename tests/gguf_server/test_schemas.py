"""Bodies: the three spellings of /chat, and which mistake is which status."""

from __future__ import annotations

import contextlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.openai_schema import ChatCompletionRequest, CompletionRequest
from gguf_server.api.schemas import ChatForm, parse
from gguf_server.errors import BadRequest, GatewayError, WrongShape


def chat(**body: Any) -> ChatCompletionRequest:
    return parse(ChatForm, orjson.dumps(body)).as_chat()


def test_message_and_prompt_are_two_spellings_of_one_thing() -> None:
    by_message = chat(message="hi", system="be brief", max_tokens=5)
    by_prompt = chat(prompt="hi", system_prompt="be brief", max_tokens=5)
    assert [m.model_dump() for m in by_message.messages] == [m.model_dump() for m in by_prompt.messages]
    assert [m.role for m in by_message.messages] == ["system", "user"]


def test_the_prompt_spelling_does_not_think_unless_asked_to() -> None:
    assert chat(prompt="hi").enable_thinking is False
    assert chat(prompt="hi", enable_thinking=True).enable_thinking is True
    assert chat(message="hi").enable_thinking is None


def test_none_of_the_three_names_all_three() -> None:
    with pytest.raises(WrongShape, match=r"'message', 'prompt' and 'messages'"):
        chat(text="hi")


@pytest.mark.parametrize(
    "body",
    [
        {"messages": "hi"},
        {"messages": []},
        {"messages": [{"content": "hi"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"message": "hi", "temperature": "0.7"},
        {"message": "hi", "max_tokens": 1.5},
        {"message": "hi", "stream": "yes"},
        {"message": "hi", "stop": [1]},
        {"message": "hi", "tool_choice": 7},
        {"message": "hi", "temperature": "hot", "top_p": 7},
        {"prompt": ["hi"]},
    ],
)
def test_a_wrong_type_is_422(body: dict[str, Any]) -> None:
    with pytest.raises(WrongShape):
        chat(**body)


@pytest.mark.parametrize(
    "field",
    [
        {"temperature": -1},
        {"temperature": 2.1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"max_tokens": 0},
        {"n": 0},
        {"min_p": 2},
    ],
)
def test_an_impossible_value_is_400_and_names_the_field(field: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        chat(message="hi", **field)
    assert refused.value.param == next(iter(field))


def test_null_means_not_said() -> None:
    nulls = dict.fromkeys(["temperature", "top_p", "stop", "max_tokens", "seed", "stream_options", "tools", "user"])
    assert chat(message="hi", **nulls).temperature is None


def test_errors_never_repeat_what_was_sent() -> None:
    with pytest.raises(GatewayError) as refused:
        chat(messages=[{"role": "user", "content": {"secret": "PATIENT"}}], tool_choice="PATIENT")
    error: BaseException | None = refused.value
    while error is not None:
        assert "PATIENT" not in str(error)
        error = error.__cause__


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
known_fields = st.sampled_from([*ChatForm.model_fields, *CompletionRequest.model_fields, "tool_choice"])


@given(st.binary(max_size=200) | json_values.map(repr).map(str.encode))
def test_any_bytes_are_taken_or_refused(raw: bytes) -> None:
    with contextlib.suppress(BadRequest, WrongShape):
        parse(ChatForm, raw).as_chat()


@given(st.dictionaries(known_fields, json_values, max_size=6))
def test_any_object_is_taken_or_refused(body: dict[str, Any]) -> None:
    try:
        raw = orjson.dumps(body)
    except TypeError:
        return  # an integer that JSON parsers do not agree on
    for kind in (ChatForm, ChatCompletionRequest, CompletionRequest):
        with contextlib.suppress(BadRequest, WrongShape):
            request = parse(kind, raw)
            if isinstance(request, ChatForm):
                request.as_chat()
