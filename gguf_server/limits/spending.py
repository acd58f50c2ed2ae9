"""How many tokens a request is likely to use, and how many it did.

Before: an estimate of the prompt (no more than the context) and all of `max_tokens`, for each answer that is asked for.
After: the engine's own counts where it came to tell them. Where it did not,

    what happened                                     counted
    no engine was asked, or it refused the request    nothing
    the engine failed before it had sent something    nothing
    a stream broke, or its client left                the prompt as estimated, and a token for each event that was sent
    the client left a whole answer, or it timed out   all that was held for it: it may have been computed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backends.openai_schema import ChatCompletionRequest, Message
from gguf_server import token_estimate


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens of a request, before it is computed."""

    n_prompt: int
    n_completion: int

    @property
    def n_tokens(self) -> int:
        return self.n_prompt + self.n_completion


def of_chat(request: ChatCompletionRequest, max_tokens: int, max_model_len: int) -> Cost:
    return Cost(_n_prompt(request, max_model_len), min(max_tokens, max_model_len) * request.n_generated)


def of_prompts(
    prompts: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]], max_tokens: int, max_model_len: int
) -> Cost:
    """Of text completions and embeddings; `max_tokens` for each prompt, all its answers together."""
    is_one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
    n_prompts = [_n_text(prompt, max_model_len) for prompt in ([prompts] if is_one else prompts)]
    return Cost(sum(n_prompts), min(max_tokens, max_model_len) * len(n_prompts))


def unfinished(cost: Cost, *, was_asked: bool, may_have_been_computed: bool, n_events: int | None) -> Cost:
    """What counts of an answer that never came to its end.

    `may_have_been_computed`: it was ended by its client or by time, not by a refusal or failure of the engine.
    `n_events`: sent of a stream; None for a whole answer.
    """
    if not was_asked or not (n_events or may_have_been_computed):
        return Cost(0, 0)
    return cost if n_events is None else Cost(cost.n_prompt, n_events)


def _n_prompt(request: ChatCompletionRequest, most: int) -> int:
    """An estimate takes a third of a token for a character at least: what is far too long need not be looked at."""
    if sum(_n_characters(message) for message in request.messages) >= 3 * most:
        return most
    messages = [{"content": message.content, **(message.model_extra or {})} for message in request.messages]
    return min(token_estimate.of_chat({"messages": messages, "tools": request.tools}), most)


def _n_text(prompt: object, most: int) -> int:
    """Of a text, or of token ids."""
    if not isinstance(prompt, str):
        return min(len(prompt), most) if isinstance(prompt, Sequence) else 1
    return most if len(prompt) >= 3 * most else min(token_estimate.of_text(prompt), most)


def _n_characters(message: Message) -> int:
    if isinstance(message.content, str):
        return len(message.content)
    texts = (part.get("text") for part in message.content or ())
    return sum(len(text) for text in texts if isinstance(text, str))
