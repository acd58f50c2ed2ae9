"""Long conversations, counted by vLLM in the model's own tokens."""

from __future__ import annotations

from tests.e2e.client import CHAT, COMPLETIONS, Client, Json, chunks, error_of, user

CONTEXT = 2048
PARAGRAPH = "The quick brown fox jumps over the lazy dog. " * 20  # about 200 tokens


def conversation(n_turns: int) -> list[Json]:
    turns = [
        turn for i in range(n_turns) for turn in (user(f"{i}: {PARAGRAPH}"), {"role": "assistant", "content": "Yes."})
    ]
    return [{"role": "system", "content": "Be brief."}, *turns, user("What is the capital of France?")]


def test_long_conversation_loses_its_middle_and_says_so(client: Client) -> None:
    answer = client.post(CHAT, {"messages": conversation(20), "max_tokens": 30})
    assert answer.status_code == 200, answer.text
    assert int(answer.headers["x-context-truncated"]) > 0
    body = answer.json()
    assert "Paris" in body["choices"][0]["message"]["content"]
    assert CONTEXT // 2 < body["usage"]["prompt_tokens"] <= CONTEXT - 30


def test_truncated_stream_says_so_too(client: Client) -> None:
    with client.stream(CHAT, {"messages": conversation(20), "max_tokens": 8, "stream": True}) as (response, found):
        assert int(response.headers["x-context-truncated"]) > 0
        assert chunks(found)


def test_short_conversation_is_left_whole(client: Client) -> None:
    answer = client.post(CHAT, {"messages": conversation(2), "max_tokens": 8})
    assert "x-context-truncated" not in answer.headers


def test_budget_shrinks_where_nothing_may_be_dropped(client: Client) -> None:
    answer = client.post(CHAT, {"messages": [user(PARAGRAPH * 8)], "max_tokens": 2000, "ignore_eos": True})
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["total_tokens"] == CONTEXT


def test_question_that_cannot_fit_is_400_with_both_numbers(client: Client) -> None:
    for stream in (False, True):
        refused = client.post(CHAT, {"messages": [user(PARAGRAPH * 20)], "max_tokens": 8, "stream": stream})
        error = error_of(refused, 400)
        assert error["code"] == "context_length_exceeded"
        assert str(CONTEXT) in error["message"]


def test_text_completion_that_cannot_fit_is_400(client: Client) -> None:
    for length in (20, 2000):  # vLLM refuses the second before it has counted it
        error = error_of(client.post(COMPLETIONS, {"prompt": PARAGRAPH * length, "max_tokens": 8}), 400)
        assert error["code"] == "context_length_exceeded"
