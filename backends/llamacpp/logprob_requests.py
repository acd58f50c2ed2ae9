"""How many logprobs a request asks for, in either API's spelling."""

from __future__ import annotations

from typing import Final

from backends.llamacpp.requests import ApiError
from backends.openai_schema import ChatCompletionRequest, CompletionRequest

MAX_LOGPROBS: Final = 20


def n_logprobs(request: ChatCompletionRequest | CompletionRequest) -> int | None:
    """Beside so many of the likeliest is each token to be shown; None for none at all. Raises `ApiError`."""
    if isinstance(request, CompletionRequest):
        return _of_completion(request.logprobs)
    if request.logprobs not in (None, False, True):
        raise ApiError(400, "logprobs: a chat takes true or false", code="invalid_value", param="logprobs")
    if request.logprobs:
        return request.top_logprobs or 0
    if request.top_logprobs:
        message = "top_logprobs needs logprobs to be true"
        raise ApiError(400, message, code="invalid_value", param="top_logprobs")
    return None


def _of_completion(asked: bool | int | None) -> int | None:
    if asked is None or asked is False:
        return None
    if not 0 <= asked <= MAX_LOGPROBS:
        message = f"logprobs goes from 0 to {MAX_LOGPROBS}"
        raise ApiError(400, message, code="invalid_value", param="logprobs")
    return int(asked)
