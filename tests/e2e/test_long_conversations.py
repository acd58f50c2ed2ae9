"""Conversations that do not fit 512 tokens: what goes, what stays, what the client is told."""

from __future__ import annotations

import re

import pytest
import requests

from tests.e2e.client import CHAT, COMPLETIONS, Client, Json, error_of, user

N_CTX = 512
TRUNCATED = "x-context-truncated"
SYSTEM: Json = {"role": "system", "content": "You are a patient teacher. " * 3}
LAST: Json = user("And what did I ask you last?")


def turns(n: int) -> list[Json]:
    """Questions and answers, no two as long, so that a count of tokens tells which of them are there."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": " ".join(["word"] * (20 + 3 * i))} for i in range(n)]


def ask(client: Client, messages: list[Json], **fields: object) -> requests.Response:
    answer = client.post(CHAT, {"messages": messages, "max_tokens": 8, "temperature": 0, **fields})
    assert answer.status_code == 200, answer.text
    return answer


def n_prompt_tokens(answer: requests.Response) -> int:
    return int(answer.json()["usage"]["prompt_tokens"])


def test_conversation_that_fits_is_left_alone(tight: Client) -> None:
    answer = ask(tight, [SYSTEM, *turns(4), LAST])
    assert TRUNCATED not in answer.headers
    assert n_prompt_tokens(answer) + 8 <= N_CTX


def test_oldest_messages_of_the_middle_go_and_no_more_than_it_takes(tight: Client) -> None:
    middle = turns(16)
    answer = ask(tight, [SYSTEM, *middle, LAST])
    n_dropped = int(answer.headers[TRUNCATED])
    assert 0 < n_dropped < len(middle)
    assert n_prompt_tokens(answer) + 8 <= N_CTX
    by_hand = ask(tight, [SYSTEM, *middle[n_dropped:], LAST])
    assert TRUNCATED not in by_hand.headers
    assert n_prompt_tokens(by_hand) == n_prompt_tokens(answer)
    assert ask(tight, [SYSTEM, *middle[n_dropped - 1 :], LAST]).headers[TRUNCATED] == "1"


def test_system_messages_stay_wherever_they_stand(tight: Client) -> None:
    late: Json = {"role": "developer", "content": "Answer in rhymes. " * 4}
    middle = turns(16)
    answer = ask(tight, [SYSTEM, *middle[:1], late, *middle[1:], LAST])
    n_dropped = int(answer.headers[TRUNCATED])
    assert n_dropped > 1
    by_hand = ask(tight, [SYSTEM, late, *middle[n_dropped:], LAST])
    assert n_prompt_tokens(by_hand) == n_prompt_tokens(answer)


def test_larger_answer_asked_for_means_more_dropped(tight: Client) -> None:
    messages = [SYSTEM, *turns(16), LAST]
    few, many = (int(ask(tight, messages, max_tokens=n).headers[TRUNCATED]) for n in (8, 120))
    assert few < many


def test_tool_call_goes_together_with_its_results(tight: Client) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    group: list[Json] = [
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "word " * 20},
        {"role": "tool", "tool_call_id": "1", "content": "word " * 300},
    ]
    kept: list[Json] = [{"role": "assistant", "content": "It is so. " * 20}]
    answer = ask(tight, [SYSTEM, *group, *kept, user("word " * 60), *kept, LAST])
    assert answer.headers[TRUNCATED] == str(len(group))
    by_hand = ask(tight, [SYSTEM, *kept, user("word " * 60), *kept, LAST])
    assert n_prompt_tokens(by_hand) == n_prompt_tokens(answer)


def test_max_tokens_shrinks_to_what_is_left(tight: Client) -> None:
    answer = ask(tight, [SYSTEM, user("word " * 300)], max_tokens=400, ignore_eos=True)
    assert TRUNCATED not in answer.headers
    usage = answer.json()["usage"]
    assert usage["total_tokens"] == N_CTX
    assert answer.json()["choices"][0]["finish_reason"] == "length"


def test_everything_that_may_go_goes_before_max_tokens_shrinks(tight: Client) -> None:
    answer = ask(tight, [SYSTEM, *turns(4), user("word " * 400)], max_tokens=200, ignore_eos=True)
    assert answer.headers[TRUNCATED] == "4"
    assert answer.json()["usage"]["total_tokens"] == N_CTX


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [SYSTEM, *turns(2), user("word " * 600)]}),
        (CHAT, {"messages": [user("word " * 600)], "stream": True}),
        ("/chat", {"message": "word " * 600}),
        ("/chat", {"messages": [user("word " * 600)]}),
        (COMPLETIONS, {"prompt": "word " * 600}),
        (COMPLETIONS, {"prompt": "word " * 600, "stream": True}),
    ],
)
def test_question_that_does_not_fit_by_itself_is_400_with_both_numbers(tight: Client, path: str, body: Json) -> None:
    error = error_of(tight.post(path, body), 400)
    assert error["code"] == "context_length_exceeded"
    numbers = [int(number) for number in re.findall(r"\d+", error["message"])]
    assert N_CTX in numbers
    assert any(number >= 600 for number in numbers)


def test_streams_and_the_simple_form_are_told_too(tight: Client) -> None:
    messages = [SYSTEM, *turns(16), LAST]
    n_dropped = ask(tight, messages).headers[TRUNCATED]
    for path in (CHAT, "/chat"):
        body = {"messages": messages, "max_tokens": 8, "stream": True}
        with tight.stream(path, body) as (response, found):
            assert response.headers[TRUNCATED] == n_dropped
            assert list(found)


def test_status_counts_shortened_conversations(tight: Client) -> None:
    def n_truncated() -> int:
        return int(tight.get("/status").json()["totals"]["truncated"])

    before = n_truncated()
    ask(tight, [SYSTEM, *turns(16), LAST])
    ask(tight, [SYSTEM, LAST])
    assert n_truncated() == before + 1
