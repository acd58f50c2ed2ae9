from __future__ import annotations

import json

from tests.parity.case import Json, chat
from tests.parity.differences import Declared, Difference, differences, undeclared, unneeded
from tests.parity.observe import Observation, observed
from tests.parity.shape import shape_of


def test_a_shape_has_the_types_of_every_path_over_all_siblings() -> None:
    first = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "bytes": []}]}
    second = {"choices": [{"index": 0, "delta": {"content": None}, "bytes": [1]}], "usage": 1.5}
    assert shape_of([first, second]) == {
        "choices": "list",
        "choices[]": "object",
        "choices[].bytes": "list",
        "choices[].bytes[]": "int",
        "choices[].delta": "object",
        "choices[].delta.content": "null|str",
        "choices[].delta.role": "absent|str",
        "choices[].index": "int",
        "usage": "absent|float",
    }


def test_keys_that_are_tokens_are_no_fields() -> None:
    assert shape_of([{"logprobs": {"top_logprobs": [{"a": -1.0, "b": -2.0}, None]}}]) == {
        "logprobs": "object",
        "logprobs.top_logprobs": "list",
        "logprobs.top_logprobs[]": "null|object",
        "logprobs.top_logprobs[].*": "float",
    }


def test_a_stream_is_put_together_before_it_is_looked_at() -> None:
    case = chat("x", checks={"is JSON": lambda text: text == "{}"})
    calls = [
        {"index": 0, "id": "1", "type": "function", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": "{}"}},
    ]
    deltas: list[Json] = [{"role": "assistant", "content": ""}, *({"tool_calls": [call]} for call in calls), {}]
    ends = [None, None, None, "tool_calls"]
    chunks = [
        json.dumps({"object": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": end}]})
        for delta, end in zip(deltas, ends, strict=True)
    ]
    seen = observed(case, 200, "text/event-stream", "\n\n".join(f"data: {chunk}" for chunk in [*chunks, "[DONE]"]))
    assert seen.facts == {
        "done": True,
        "object": ["c"],
        "usage in": "none",
        "first delta": {"role": "assistant", "content": ""},
        "finish in": 1,
        "choices": 1,
        "finish": ["tool_calls"],
        "says": [[]],
        "calls": [["weather"]],
        "is JSON": True,
    }


def test_a_missing_object_is_one_difference_and_not_one_for_each_of_its_fields() -> None:
    vllm = Observation(200, shape_of([{"a": {"b": [{"c": 1}]}, "d": 1}]), {"finish": ["stop"]})
    worker = Observation(200, shape_of([{"d": "1"}]), {"finish": ["length"], "more": 1})
    assert differences("x", vllm, worker) == [
        Difference("x", "finish", ["stop"], ["length"]),
        Difference("x", "a", "object", "absent"),
        Difference("x", "d", "int", "str"),
    ]
    assert [each.where for each in differences("x", vllm, Observation(400, {}, {}))] == ["status"]


def test_a_declared_difference_covers_what_its_patterns_name_and_no_more() -> None:
    found = [
        Difference("chat: a", "a[].x", "null", "absent"),
        Difference("text: b", "a[].x", "int", "absent"),
    ]
    declared = Declared("a[].x, y", "null, int", "absent", "because", cases="chat: *")
    assert undeclared(found, [declared]) == [found[1]]
    assert unneeded({"all": found}, [declared, Declared("a*", "str", "*", "no more")]) == [
        Declared("a*", "str", "*", "no more")
    ]
