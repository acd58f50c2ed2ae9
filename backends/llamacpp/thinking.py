"""How much a chat may think: effort, budget, and a share of `max_tokens` that stays for the answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from backends.llamacpp.prompts import Prompt
from backends.llamacpp.thought import ThoughtLimit, ThoughtMarkers
from backends.openai_schema import ChatCompletionRequest

SHARE_BY_EFFORT: Final = {"minimal": 0.1, "low": 0.2, "medium": 0.5}
"""Of `max_tokens`; more effort than that is bounded by the answer's reserve alone."""

MIN_RESERVED: Final = 16
MAX_RESERVED: Final = 1024


def n_reserved(max_tokens: int) -> int:
    """Tokens kept for the answer: a quarter, within bounds."""
    return min(max(max_tokens // 4, MIN_RESERVED), MAX_RESERVED)


def budget(request: ChatCompletionRequest, max_tokens: int) -> int | None:
    """The most tokens of thought, None for no bound of its own: a number goes before an effort."""
    if request.thinking_token_budget is not None:
        return None if request.thinking_token_budget < 0 else request.thinking_token_budget
    share = SHARE_BY_EFFORT.get(request.reasoning_effort or "")
    return None if share is None else int(share * max_tokens)


def limit(
    request: ChatCompletionRequest, prompt: Prompt, markers: ThoughtMarkers, *, n_ctx: int
) -> tuple[Prompt, ThoughtLimit]:
    """The prompt to answer, and how its answers may think.

    Where the prompt has opened a thought and there is no room for one, it closes it, too: that takes nothing off
    `max_tokens`, of which there may be one.
    """
    n_left = n_ctx - len(prompt.tokens)
    max_tokens = min(request.token_budget or n_left, n_left)
    most = budget(request, max_tokens)
    reserved = n_reserved(max_tokens)
    n_for_thought = max_tokens - markers.n_closing_tokens - reserved
    closing = markers.closing_text_tokens
    if prompt.inside_reasoning and (n_for_thought <= 0 or most == 0) and len(closing) < n_left:
        tokens = [*prompt.tokens, *closing]
        closed = replace(
            prompt, tokens=tokens, inside_reasoning=False, after_reasoning=True, n_begun_tokens=0, healing=None
        )
        return closed, ThoughtLimit(markers, reserved, most, closed=True)
    answering = prompt.n_begun_tokens > 0 and not prompt.inside_reasoning
    return prompt, ThoughtLimit(markers, reserved, most, inside=prompt.inside_reasoning, answering=answering)
