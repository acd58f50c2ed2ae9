"""What a request's effort, budget and `max_tokens` make of its thought."""

from __future__ import annotations

from typing import Any

import pytest

from backends.llamacpp.prompts import Prompt
from backends.llamacpp.reasoning import FORMATS
from backends.llamacpp.thinking import budget, limit, n_reserved
from backends.llamacpp.thought import ThoughtMarkers, thought_markers
from backends.openai_schema import ChatCompletionRequest

N_CTX = 1000
INSIDE = Prompt([1] * 10, inside_reasoning=True)
BEGUN = Prompt([1] * 10, inside_reasoning=True, n_begun_tokens=4)


def chat(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "x"}], **fields})


@pytest.fixture(scope="module")
def markers() -> ThoughtMarkers:
    """A token for every byte."""
    pieces = [(byte, bytes([byte])) for byte in range(256)]
    return thought_markers(FORMATS["think"], pieces, lambda text: list(text.encode()), frozenset({0}))


@pytest.mark.parametrize(("max_tokens", "n"), [(1, 16), (64, 16), (100, 25), (4096, 1024), (9000, 1024)])
def test_quarter_is_reserved_within_bounds(max_tokens: int, n: int) -> None:
    assert n_reserved(max_tokens) == n


@pytest.mark.parametrize(
    ("fields", "n"),
    [
        ({}, None),
        ({"thinking_token_budget": 7}, 7),
        ({"thinking_token_budget": 0}, 0),
        ({"thinking_token_budget": -1}, None),
        ({"thinking_token_budget": -1, "reasoning_effort": "low"}, None),
        ({"reasoning_effort": "minimal"}, 100),
        ({"reasoning_effort": "low"}, 200),
        ({"reasoning_effort": "medium"}, 500),
        ({"reasoning_effort": "high"}, None),
        ({"reasoning_effort": "max"}, None),
        ({"reasoning_effort": "none"}, None),
    ],
)
def test_budget_is_a_number_or_the_efforts_share(fields: dict[str, Any], n: int | None) -> None:
    assert budget(chat(**fields), 1000) == n


@pytest.mark.parametrize("prompt", [INSIDE, BEGUN])
@pytest.mark.parametrize("fields", [{"max_tokens": 1}, {"max_tokens": 24}, {"thinking_token_budget": 0}])
def test_prompt_closes_a_thought_that_has_no_room(
    markers: ThoughtMarkers, prompt: Prompt, fields: dict[str, Any]
) -> None:
    closed, limits = limit(chat(**fields), prompt, markers, n_ctx=N_CTX)
    assert bytes(closed.tokens[10:]) == b"\n</think>\n\n"
    assert (closed.inside_reasoning, closed.n_begun_tokens, closed.healing) == (False, 0, None)
    assert (limits.inside, limits.closed, limits.answering) == (False, True, False)


def test_thought_that_has_room_is_left_to_the_model(markers: ThoughtMarkers) -> None:
    for prompt in (INSIDE, BEGUN):
        same, limits = limit(chat(max_tokens=60), prompt, markers, n_ctx=N_CTX)
        assert same is prompt
        assert (limits.inside, limits.closed, limits.answering) == (True, False, False)


def test_prompt_that_fills_the_context_is_not_made_longer_than_that(markers: ThoughtMarkers) -> None:
    prompt = Prompt([1] * (N_CTX - 5), inside_reasoning=True)
    assert limit(chat(), prompt, markers, n_ctx=N_CTX)[0] is prompt


def test_answer_that_has_begun_is_no_place_for_a_thought(markers: ThoughtMarkers) -> None:
    prompt = Prompt([1] * 10, n_begun_tokens=3)
    same, limits = limit(chat(max_tokens=2), prompt, markers, n_ctx=N_CTX)
    assert same is prompt
    assert limits.answering
