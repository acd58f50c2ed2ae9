"""A service that embeds, through the gateway: a real worker with a tiny model behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from openai import AsyncOpenAI

from tests import models
from tests.gguf_server.gateway import KEY, Gateway, gateway

EMBEDDINGS = "/v1/embeddings"
N_EMBD = 64


@pytest.fixture
async def embedding(tmp_path: Path) -> AsyncIterator[Gateway]:
    weights = models.write("qwen3-embedding", tmp_path / "embedding.gguf")
    engine = {"kind": "llamacpp", "n_threads": 1}
    async with gateway(task="embed", model="tiny", weights=str(weights), max_model_len=512, engines=[engine]) as served:
        await served.until_up("llama.cpp")
        yield served


async def test_service_that_embeds(embedding: Gateway) -> None:
    """One start for all of it."""
    reply = await embedding.ask(EMBEDDINGS, prompt="", input=["the sky", "the sea"])
    assert (reply.status, reply.engine, reply.n_failovers) == (200, "llama.cpp", 0)
    vectors = np.array([entry["embedding"] for entry in reply.body["data"]])
    assert vectors.shape == (2, N_EMBD)
    assert reply.body["model"] == "tiny"
    n_tokens = reply.body["usage"]["prompt_tokens"]
    assert embedding.service.totals.n_prompt_tokens == n_tokens > 4

    async with AsyncOpenAI(base_url=embedding.url + "/v1", api_key=KEY) as sdk:
        answer = await sdk.embeddings.create(model="tiny", input=["the sky", "the sea"])
    np.testing.assert_allclose([entry.embedding for entry in answer.data], vectors, atol=1e-6)

    for body, status, code in (
        ({"input": "the sky " * 600}, 400, "context_length_exceeded"),
        ({"input": []}, 400, "invalid_value"),
        ({"input": {}}, 422, "wrong_shape"),
        ({"input": "x", "model": "other"}, 404, "model_not_found"),
        ({"input": "x", "dimensions": 8}, 400, "invalid_value"),
    ):
        reply = await embedding.ask(EMBEDDINGS, prompt="", **body)
        assert reply.error is not None
        assert (reply.status, reply.error["code"]) == (status, code)

    reply = await embedding.ask(max_tokens=4)
    assert (reply.status, (reply.error or {})["code"]) == (400, "unsupported_operation")


async def test_service_that_generates_knows_no_embeddings() -> None:
    async with gateway(()) as served:
        await served.until_up("a")
        assert (await served.ask(EMBEDDINGS, prompt="", input="Hi")).status == 404
