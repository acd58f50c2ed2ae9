from __future__ import annotations

import numpy as np
import pytest

from backends.llamacpp.allowed_tokens import AllowedTokens, banned_tokens, guides
from backends.llamacpp.requests import ApiError
from backends.openai_schema import CompletionRequest
from tests.backends.llamacpp.worker import Client


def test_all_but_the_allowed_tokens_are_kept_out() -> None:
    guide = AllowedTokens(banned_tokens([3, 1, 3], 5))
    logits = np.arange(5, dtype=np.float32)
    guide.mask(logits)
    assert logits.tolist() == [-np.inf, 1, -np.inf, 3, -np.inf]


@pytest.mark.parametrize("allowed", [[], [5], [-1]])
def test_tokens_that_are_none_are_refused(allowed: list[int]) -> None:
    with pytest.raises(ApiError) as refused:
        guides(CompletionRequest(prompt="x", allowed_token_ids=allowed), 5)
    assert (refused.value.status, refused.value.param) == (400, "allowed_token_ids")


def test_without_a_list_nothing_is_guided() -> None:
    assert guides(CompletionRequest(prompt="x"), 5) == ()


async def test_an_answer_is_made_of_the_allowed_tokens(client: Client) -> None:
    allowed = await client.tokens_of(" cat dog")
    answer = await client.complete("One animal is a", allowed_token_ids=allowed, max_tokens=4, seed=1)
    assert set(answer["choices"][0]["text"].split()) <= {"cat", "dog"}
    assert answer["usage"]["completion_tokens"] == 4


async def test_an_answer_cannot_go_on_and_begin_anew(client: Client) -> None:
    both = {"continue_final_message": True, "add_generation_prompt": True}
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "It"}]
    status, error = await client.error("/v1/chat/completions", {"messages": messages, **both})
    assert (status, error["param"]) == (400, "continue_final_message")


async def test_an_empty_stop_is_refused(client: Client) -> None:
    status, error = await client.error("/v1/completions", {"prompt": "Hi", "stop": ["x", ""]})
    assert (status, error["param"]) == (400, "stop")


async def test_the_version_is_told(client: Client) -> None:
    _, answer = await client.get("/version")
    assert answer["version"].count(".") == 2
