"""`allowed_token_ids`: the only tokens an answer may be made of (as in vLLM)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from backends.llamacpp.guide import MakeGuide
from backends.llamacpp.requests import ApiError, check_token_ids
from backends.openai_schema import GenerationRequest

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]


def guides(request: GenerationRequest, n_vocab: int) -> tuple[MakeGuide, ...]:
    """Raises `ApiError`."""
    allowed = request.allowed_token_ids
    if allowed is None:
        return ()
    if not allowed:
        raise ApiError(400, "allowed_token_ids allows nothing", code="invalid_value", param="allowed_token_ids")
    check_token_ids(allowed, n_vocab, "allowed_token_ids")
    return (partial(AllowedTokens, banned_tokens(allowed, n_vocab)),)


def banned_tokens(allowed: Sequence[int], n_vocab: int) -> Int64Array:
    """All others, in order."""
    is_banned = np.ones(n_vocab, np.bool_)
    is_banned[np.array(allowed, np.int64)] = False
    return np.flatnonzero(is_banned)


class AllowedTokens:
    """A guide that keeps the other tokens out, the model's end included."""

    is_complete = False
    is_idle = False

    def __init__(self, banned: Int64Array) -> None:
        self._banned = banned

    def forced(self) -> int | None:
        return None

    def mask(self, logits: Float32Array) -> None:
        logits[self._banned] = -np.inf

    def accept(self, token: int, piece: bytes) -> None:
        """Any is as good as another."""
