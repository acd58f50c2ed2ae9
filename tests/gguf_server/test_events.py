"""Marks in the bytes of events."""

from __future__ import annotations

import pytest

from gguf_server import events

PLAIN = b'data: {"choices":[{"delta":{"content":"Xin ch\xc3\xa0o"}}]}\n\n'
VLLM = b'data: {"choices":[{"index":0,"delta":{"reasoning":"Hm"}}]}\n\n'
LLAMA_SERVER = b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"Hm"}}]}\n\n'
NULL = b'data: {"choices":[{"index":0,"delta":{"content":"a","reasoning":null}}]}\n\n'
QUOTED = events.encode({"choices": [{"delta": {"content": 'data: {"error": "choices":[] "reasoning":"x"'}}]})


@pytest.mark.parametrize("event", [PLAIN, NULL, QUOTED, events.DONE, b": ping\n\n"])
def test_most_events_need_no_reading(event: bytes) -> None:
    assert not events.needs_reading(event)


@pytest.mark.parametrize(
    "event",
    [
        VLLM,
        LLAMA_SERVER,
        b'data: {"error":{}}\n\n',
        b'data: {"choices":[],"usage":{}}\n\n',
        b'data: {"choices": []}\n\n',
    ],
)
def test_these_do(event: bytes) -> None:
    assert events.needs_reading(PLAIN + event)


@pytest.mark.parametrize("event", [VLLM, LLAMA_SERVER])
def test_reasoning_is_spelt_both_ways(event: bytes) -> None:
    found = events.decode(events.spell_reasoning_twice(event))
    assert found is not None
    assert found["choices"][0]["delta"] == {"reasoning": "Hm", "reasoning_content": "Hm"}


@pytest.mark.parametrize("event", [PLAIN, NULL, QUOTED, events.DONE])
def test_other_events_keep_their_bytes(event: bytes) -> None:
    assert events.spell_reasoning_twice(event) is event


@pytest.mark.parametrize("event", [events.DONE, b": ping\n\n", b"data: [1]\n\n", b"data: {\n\n", b"\xff\n\n"])
def test_what_is_no_object_is_none(event: bytes) -> None:
    assert events.decode(event) is None


def test_events_are_taken_apart_and_keep_their_ends() -> None:
    assert list(events.split(PLAIN + VLLM + events.DONE)) == [PLAIN, VLLM, events.DONE]
