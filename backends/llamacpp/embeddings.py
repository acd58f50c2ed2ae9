"""From an OpenAI request for embeddings to its answer."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import orjson

from backends.llamacpp.embedding_loop import EmbeddingFailed
from backends.llamacpp.embedding_queue import Vector
from backends.llamacpp.engine import LlamaEngine
from backends.llamacpp.native import Model
from backends.llamacpp.requests import ApiError
from backends.openai_schema import EmbeddingRequest

MAX_TEXTS: Final = 2048  # OpenAI's own limit


async def answer(engine: LlamaEngine, request: EmbeddingRequest, model_id: str, *, can_shorten: bool) -> bytes:
    """The body of the answer. Raises `ApiError` and `TooBusy`."""
    if engine.embedding is None:
        message = "the model does not support the Embeddings API: it generates texts"
        raise ApiError(400, message, code="unsupported_operation")
    n_dimensions = _n_dimensions(request, engine.embedding.n_embd, can_shorten=can_shorten)
    texts = await asyncio.to_thread(_tokens, request, engine.loaded.model)
    _check_lengths(texts, engine.loaded.n_ctx)
    try:
        vectors = await engine.embed(texts)
    except EmbeddingFailed as error:
        raise ApiError(500, "the engine failed inside this request", code="engine_failed") from error
    if n_dimensions is not None:
        vectors = [_shortened(vector, n_dimensions) for vector in vectors]
    n_tokens = sum(map(len, texts))
    body = {
        "id": f"embd-{secrets.token_hex(12)}",
        "object": "list",
        "created": int(time.time()),
        "model": model_id,
        "data": _data(vectors, as_base64=request.encoding_format == "base64"),
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _n_dimensions(request: EmbeddingRequest, n_embd: int, *, can_shorten: bool) -> int | None:
    """How short to cut the vectors; None: not at all."""
    wanted = request.dimensions
    if wanted is None or wanted == n_embd:
        return None
    if not can_shorten:
        message = f"this model's vectors have {n_embd} dimensions and cannot be cut short"
        raise ApiError(400, message, code="invalid_value", param="dimensions")
    if wanted > n_embd:
        raise ApiError(400, f"dimensions: at most {n_embd}", code="invalid_value", param="dimensions")
    return wanted


def _tokens(request: EmbeddingRequest, model: Model) -> list[list[int]]:
    """The texts in tokens, with those that the model wants around them; token ids as they are."""
    match request.input:
        case str():
            given: list[Any] = [request.input]
        case [int(), *_]:
            given = [request.input]
        case _:
            given = list(request.input)
    if not given:
        raise ApiError(400, "there is no input", code="invalid_value", param="input")
    if len(given) > MAX_TEXTS:
        raise ApiError(400, f"at most {MAX_TEXTS} inputs at once", code="invalid_value", param="input")
    texts = [_tokens_of(one, model) for one in given]
    if not all(texts):
        raise ApiError(400, "an input is empty", code="invalid_value", param="input")
    return texts


def _tokens_of(given: str | list[int], model: Model) -> list[int]:
    if isinstance(given, str):
        return list(model.tokenize(given, add_special=True, parse_special=True))
    if any(not 0 <= token < model.n_vocab for token in given):
        raise ApiError(400, f"token ids go from 0 to {model.n_vocab - 1}", code="invalid_value", param="input")
    return given


def _check_lengths(texts: Sequence[Sequence[int]], n_ctx: int) -> None:
    for index, tokens in enumerate(texts):
        if len(tokens) > n_ctx:
            message = f"this model's maximum context length is {n_ctx} tokens, input {index} has {len(tokens)}"
            raise ApiError(400, message, code="context_length_exceeded", param="input")


def _shortened(vector: Vector, n_dimensions: int) -> Vector:
    """The first dimensions (a Matryoshka model puts most into them), of length one again."""
    cut = vector[:n_dimensions]
    length = np.linalg.norm(cut)
    return cut / length if length > 0 else cut


def _data(vectors: Sequence[Vector], *, as_base64: bool) -> list[dict[str, Any]]:
    """`embedding` is a list of numbers, or their bytes as little-endian float32."""
    spelt: list[Any] = list(vectors)
    if as_base64:
        spelt = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
    return [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(spelt)]
