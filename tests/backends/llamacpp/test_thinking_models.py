"""Formats whose markers are tokens of their own: tiny models that never come to an end of their thought."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.llamacpp.worker import Worker, assistant, started, user

CHAT = "/v1/chat/completions"
NAMES = ["qwen3", "gemma4"]


@pytest.fixture(scope="module", params=NAMES)
def babbler(request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]) -> Iterator[Worker]:
    with started("--n-ctx", "512", "--n-parallel", "4", model=tiny_model(request.param)) as worker:
        yield worker


@pytest.mark.parametrize("max_tokens", [1, 2, 5, 20, 30, 60])
@pytest.mark.parametrize("how", [{"temperature": 0, "ignore_eos": True}, {"temperature": 2, "seed": 1}])
async def test_thought_that_goes_on_is_closed_for_the_answer(
    babbler: Worker, max_tokens: int, how: dict[str, Any]
) -> None:
    begun = {**assistant(""), "reasoning": "The word"}
    body = {"messages": [user("Say a word."), begun], "continue_final_message": True, "enable_thinking": True, **how}
    async with babbler.client() as client:
        answer = await client.ok(CHAT, {**body, "max_tokens": max_tokens})
        seen = await client.stream(CHAT, {**body, "max_tokens": max_tokens})
    message = answer["choices"][0]["message"]
    assert message["content"].strip()
    assert "think>" not in message["content"]
    assert "channel" not in message["content"]
    assert ("reasoning" in message) is (max_tokens > 20)
    assert answer["usage"]["completion_tokens"] <= max_tokens
    assert seen.text().strip()


@pytest.mark.parametrize("babbler", ["qwen3"], indirect=True)
@pytest.mark.parametrize("max_tokens", [1, 2, 3, 4, 12, 50])
async def test_model_that_would_open_thought_after_thought_comes_to_an_answer(babbler: Worker, max_tokens: int) -> None:
    async with babbler.client() as client:
        (opening,) = await client.tokens_of("<think>")
        bias = {str(opening): 100}
        answer = await client.chat("Hi", logit_bias=bias, max_tokens=max_tokens, temperature=0, ignore_eos=True)
    assert answer["choices"][0]["message"]["content"].strip()
    assert answer["choices"][0]["finish_reason"] == "length"
