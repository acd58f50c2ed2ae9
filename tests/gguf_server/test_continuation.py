"""How one engine's answer goes on at another, as functions of events and bodies."""

from __future__ import annotations

from typing import Any

import pytest

from gguf_server import continuation, events
from gguf_server.continuation import Begun, CannotContinue, Seam

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
FIELDS = {"continue_final_message": True}


def chunk(delta: dict[str, Any], finish: str | None = None, *, index: int = 0, **head: Any) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return events.encode({**HEAD, **head, "choices": [choice]})


ROLE = chunk({"role": "assistant", "content": ""})


def test_what_was_said_is_read_from_the_events_however_they_were_cut() -> None:
    said = [ROLE, chunk({"reasoning": "Hm", "reasoning_content": "Hm"}), chunk({"reasoning_content": "m."})]
    said += [chunk({"content": "Xin "}) + b": keep-alive\n\n" + chunk({"content": "chào"})]
    begun = continuation.read(said)
    assert (begun.reasoning, begun.content, begun.head) == ("Hmm.", "Xin chào", HEAD)
    assert not begun.is_silent
    assert not begun.is_finished({})


def test_of_a_text_completion_too() -> None:
    begun = continuation.read([events.encode({"id": "cmpl-1", "choices": [{"index": 0, "text": "one"}]})])
    assert (begun.content, begun.head) == ("one", {"id": "cmpl-1"})


def test_an_answer_of_roles_only_is_silent() -> None:
    assert continuation.read([ROLE]).is_silent
    assert continuation.read([]).is_silent


def test_an_answer_with_its_finish_reason_is_finished() -> None:
    assert continuation.read([ROLE, chunk({}, "stop")]).is_finished(CHAT)


@pytest.mark.parametrize("body", [{"n": 2, "prompt": "a"}, {"prompt": ["a", "b"]}, {"prompt": [[1], [2]]}])
def test_an_answer_of_several_is_finished_with_the_last(body: dict[str, Any]) -> None:
    first, second = chunk({}, "stop"), chunk({}, "stop", index=1)
    assert not continuation.read([first]).is_finished(body)
    assert continuation.read([first, second]).is_finished(body)
    assert continuation.read([first]).is_finished({"prompt": [1, 2]})


CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10}


@pytest.mark.parametrize(
    ("more", "begun", "why"),
    [
        ({"n": 2}, Begun(content="a"), "several choices"),
        ({}, Begun(content="a", indexes={0, 1}), "several choices"),
        ({"best_of": 3}, Begun(content="a"), "several choices"),
        ({}, Begun(has_tool_call=True), "tool call"),
        ({"response_format": {"type": "json_object"}}, Begun(content="{"), "grammar"),
        ({"guided_regex": "a+"}, Begun(content="a"), "grammar"),
        ({"tool_choice": "required"}, Begun(content="a"), "grammar"),
        ({"messages": [{"role": "assistant", "content": []}], "continue_final_message": True}, Begun(), "one text"),
    ],
)
def test_what_no_engine_could_go_on_with(more: dict[str, Any], begun: Begun, why: str) -> None:
    with pytest.raises(CannotContinue, match=why):
        continuation.check({**CHAT, **more}, begun)


@pytest.mark.parametrize("more", [{"echo": True}, {"logprobs": 1}, {"suffix": "x"}, {"prompt": [1, 2]}])
def test_text_completions_that_no_engine_could_go_on_with(more: dict[str, Any]) -> None:
    with pytest.raises(CannotContinue):
        continuation.check({"prompt": "Once", **more}, Begun(content=" upon"))


def test_what_can_be_gone_on_with() -> None:
    continuation.check({**CHAT, "tools": [{}], "tool_choice": "auto", "n": 1}, Begun(content="a"))
    continuation.check({**CHAT, "response_format": {"type": "text"}}, Begun(content="a"))
    continuation.check({"prompt": "Once"}, Begun(content=" upon"))


def test_the_answer_so_far_becomes_the_beginning_of_the_message_and_costs_its_tokens() -> None:
    body = {**CHAT, "min_tokens": 2, "seed": 5}
    asked = continuation.continued(body, Begun(content="Hello, "), n_said=3, fields=FIELDS)
    assert asked["messages"] == [*CHAT["messages"], {"role": "assistant", "content": "Hello, "}]  # type: ignore[misc]
    assert (asked["max_tokens"], asked["min_tokens"], asked["seed"]) == (7, 0, 5)
    assert asked["continue_final_message"] is True
    assert CHAT["messages"] == [{"role": "user", "content": "Hi"}]


def test_reasoning_goes_along_in_both_spellings() -> None:
    asked = continuation.continued(CHAT, Begun(reasoning="Hm"), n_said=1, fields=FIELDS)
    assert asked["messages"][-1] == {"role": "assistant", "content": "", "reasoning_content": "Hm", "reasoning": "Hm"}


def test_the_thinking_budget_shrinks_while_thinking_and_goes_afterwards() -> None:
    body = {**CHAT, "thinking_token_budget": 5}
    thinking = continuation.continued(body, Begun(reasoning="Hm"), n_said=2, fields=FIELDS)
    assert thinking["thinking_token_budget"] == 3
    answering = continuation.continued(body, Begun(reasoning="Hm", content="A"), n_said=2, fields=FIELDS)
    assert "thinking_token_budget" not in answering


def test_a_message_that_the_client_itself_had_continued_grows() -> None:
    body = {**CHAT, "messages": [{"role": "assistant", "content": "One"}], "continue_final_message": True}
    asked = continuation.continued(body, Begun(content=" two"), n_said=1, fields=FIELDS)
    assert asked["messages"] == [{"role": "assistant", "content": "One two"}]


def test_a_prompt_grows_by_what_was_written() -> None:
    asked = continuation.continued({"prompt": "Once", "max_tokens": 4}, Begun(content=" upon"), n_said=1, fields={})
    assert asked == {"prompt": "Once upon", "max_tokens": 3}


def seam(**more: Any) -> Seam:
    return Seam(HEAD, "llama.cpp", 1, **more)


def rewritten(event: bytes, **more: Any) -> dict[str, Any]:
    found = events.decode(seam(**more).rewrite(event))
    assert found is not None
    return found


def test_the_chunks_of_the_second_engine_look_like_those_of_the_first() -> None:
    found = rewritten(chunk({"content": "lo"}, id="other", created=9, model="n"))
    assert {key: found[key] for key in HEAD} == HEAD
    assert found["choices"][0]["delta"] == {"content": "lo"}


def test_who_goes_on_is_told_once() -> None:
    one = seam()
    first, second = (
        events.decode(one.rewrite(chunk({"content": "a"}))),
        events.decode(one.rewrite(chunk({"content": "b"}))),
    )
    assert first is not None
    assert second is not None
    assert (first["x_engine"], first["x_engine_failovers"]) == ("llama.cpp", 1)
    assert "x_engine" not in second


def test_the_role_is_not_said_again() -> None:
    assert seam().rewrite(ROLE) == b""
    assert rewritten(chunk({"role": "assistant", "content": "a"}))["choices"][0]["delta"] == {"content": "a"}
    assert rewritten(chunk({"role": "assistant", "content": ""}, "stop"))["choices"][0]["finish_reason"] == "stop"


def test_the_end_and_comments_pass() -> None:
    assert seam().rewrite(events.DONE) == events.DONE
    assert seam().rewrite(b": keep-alive\n\n") == b": keep-alive\n\n"


def test_the_usage_is_that_of_one_answer() -> None:
    usage = {
        "prompt_tokens": 25,
        "completion_tokens": 6,
        "total_tokens": 31,
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    found = rewritten(events.encode({"choices": [], "usage": usage}), n_said=5, n_reasoned=3)["usage"]
    assert (found["prompt_tokens"], found["completion_tokens"], found["total_tokens"]) == (20, 11, 31)
    assert found["completion_tokens_details"] == {"reasoning_tokens": 5}
