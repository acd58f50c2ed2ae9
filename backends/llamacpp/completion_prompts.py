"""The prompts of a text completion: several at once, token ids, echoed, or with a middle to be filled in."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from backends.llamacpp.native import Model
from backends.llamacpp.prompts import PromptBuilder
from backends.llamacpp.requests import ApiError, check_token_ids
from backends.openai_schema import CompletionRequest


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """`echo`: the prompt's text, where it is to stand before the answer."""

    tokens: list[int]
    echo: str | None = None


async def completion_prompts(request: CompletionRequest, builder: PromptBuilder, model: Model) -> list[TextPrompt]:
    """Raises `ApiError`."""
    if request.suffix and request.echo:
        message = "a prompt with a suffix cannot be echoed: it is not what comes right before the answer"
        raise ApiError(400, message, code="invalid_value", param="echo")
    prompts = _several(request.prompt)
    if not prompts:
        raise ApiError(400, "there is no prompt", code="invalid_value", param="prompt")
    return [await _one(prompt, request, builder, model) for prompt in prompts]


def _several(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str] | list[list[int]]:
    match prompt:
        case str():
            return [prompt]
        case [int(), *_]:
            return [[token for token in prompt if isinstance(token, int)]]
        case _:
            return prompt  # type: ignore[return-value]  # a list of texts or of token lists


async def _one(prompt: str | list[int], request: CompletionRequest, builder: PromptBuilder, model: Model) -> TextPrompt:
    if not isinstance(prompt, str):
        check_token_ids(prompt, model.n_vocab, "prompt")
    if request.suffix:
        return TextPrompt(await asyncio.to_thread(_infill, prompt, request.suffix, model))
    if isinstance(prompt, str):
        return TextPrompt(await builder.text(prompt), prompt if request.echo else None)
    echo = await asyncio.to_thread(model.detokenize, prompt) if request.echo and prompt else None
    return TextPrompt(prompt, echo)


def _infill(prefix: str | list[int], suffix: str, model: Model) -> list[int]:
    """In llama-server's order. Texts are the user's: no control tokens are read in them."""
    if model.fim_tokens is None:
        message = "suffix: this model has no tokens for filling in a middle"
        raise ApiError(400, message, code="unsupported_parameter", param="suffix")
    pre, suf, mid = model.fim_tokens
    before = prefix if isinstance(prefix, list) else model.tokenize(prefix)
    begin = [model.bos_token] if model.adds_bos else []
    return [*begin, pre, *before, suf, *model.tokenize(suffix), mid]
