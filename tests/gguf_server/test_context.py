"""Truncation, against a tokeniser that counts words."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.openai_schema import ChatCompletionRequest, Message
from gguf_server.context import Fit, droppable_groups, fit, upper_bound
from gguf_server.errors import ContextExceeded


async def count_words(messages: Sequence[Message]) -> int | None:
    return sum(len(str(message.content or "").split()) for message in messages)


def message(role: str, n_words: int = 1, **more: object) -> Message:
    return Message.model_validate({"role": role, "content": "w " * n_words, **more})


def fitted(messages: list[Message], max_tokens: int, max_model_len: int, *, keep_last: bool = False) -> Fit:
    return asyncio.run(fit(messages, max_tokens, max_model_len, count_words, keep_last=keep_last))


def test_a_conversation_that_fits_is_left_alone() -> None:
    messages = [message("system", 5), message("user", 5)]
    assert fitted(messages, 10, 20) == Fit(tuple(messages), 10, 0)


def test_the_oldest_in_the_middle_go_and_no_more_than_needed() -> None:
    messages = [message("system", 5), *(message("user" if i % 2 == 0 else "assistant", 10) for i in range(7))]
    result = fitted(messages, 10, 50)
    assert result.n_dropped == 4
    assert result.messages == (messages[0], *messages[5:])
    assert result.max_tokens == 10


def test_system_messages_in_the_middle_stay() -> None:
    messages = [message("user", 50), message("system", 5), message("assistant", 50), message("user", 5)]
    assert fitted(messages, 10, 30).messages == (messages[1], messages[3])


def test_a_tool_call_goes_together_with_its_results() -> None:
    call = message("assistant", 1, tool_calls=[{"id": "1"}, {"id": "2"}])
    messages = [message("user", 3), call, message("tool", 30), message("tool", 1), message("user", 3)]
    result = fitted(messages, 5, 20)
    assert result.messages == (messages[4],)
    assert result.n_dropped == 4


def test_max_tokens_shrinks_when_nothing_more_may_go() -> None:
    result = fitted([message("system", 5), message("user", 5), message("user", 5)], 100, 30)
    assert (result.n_dropped, result.max_tokens) == (1, 20)


def test_what_may_not_go_and_does_not_fit_is_refused_with_both_numbers() -> None:
    with pytest.raises(ContextExceeded, match=r"30 tokens.*have 35"):
        fitted([message("system", 15), message("user", 9), message("user", 20)], 5, 30)


def test_a_final_message_that_is_to_be_continued_stays() -> None:
    messages = [message("user", 5), message("assistant", 20), message("user", 5), message("assistant", 5)]
    assert fitted(messages, 5, 20, keep_last=True).messages == (messages[2], messages[3])


def test_an_order_that_the_template_refuses_is_passed_over() -> None:
    """Templates that want user and assistant by turns refuse a conversation that begins with an answer."""

    async def strict(messages: Sequence[Message]) -> int | None:
        return None if messages[0].role == "assistant" else await count_words(messages)

    messages = [message("user" if i % 2 == 0 else "assistant", 10) for i in range(7)]
    result = asyncio.run(fit(messages, 5, 56, strict, keep_last=False))
    assert result.n_dropped == 2


conversations = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.integers(0, 20)), min_size=1, max_size=12
)


@given(conversations, st.integers(1, 40), st.integers(1, 120))
def test_what_is_sent_fits_and_keeps_what_was_promised(
    turns: list[tuple[str, int]], max_tokens: int, max_model_len: int
) -> None:
    messages = [message(role, n_words) for role, n_words in turns]
    system = [m for m in messages if m.role == "system"]
    users = [m for m in messages if m.role == "user"]
    try:
        result = fitted(messages, max_tokens, max_model_len)
    except ContextExceeded:
        groups = droppable_groups(messages, keep_last=False)
        kept = len(messages) - sum(len(group) for group in groups)
        assert kept >= 1
        return
    n_prompt = asyncio.run(count_words(result.messages)) or 0
    assert n_prompt + result.max_tokens <= max_model_len
    assert 1 <= result.max_tokens <= max_tokens
    assert [m for m in result.messages if m.role == "system"] == system
    assert not users or any(m is users[-1] for m in result.messages)
    assert result.n_dropped == len(messages) - len(result.messages)


@given(st.lists(st.text(max_size=50), min_size=1, max_size=5))
def test_the_upper_bound_is_never_below_one_token_a_byte(texts: list[str]) -> None:
    request = ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": text} for text in texts]})
    assert upper_bound(request) >= sum(len(text.encode()) for text in texts)
