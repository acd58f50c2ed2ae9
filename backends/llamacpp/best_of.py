"""`best_of`: more answers are made than are given."""

from __future__ import annotations

from backends.llamacpp.requests import ApiError
from backends.openai_schema import CompletionRequest


def n_best(request: CompletionRequest) -> int | None:
    """How many answers to each prompt are kept; None for all. Raises `ApiError`."""
    n = request.n or 1
    if request.best_of is None or request.best_of == n:
        return None
    if request.best_of < n:
        raise ApiError(400, "best_of is less than n", code="invalid_value", param="best_of")
    if request.stream:
        message = "best_of: the best is known when all are finished, which cannot be streamed"
        raise ApiError(400, message, code="invalid_value", param="best_of")
    return n
