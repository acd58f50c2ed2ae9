"""Vectors of texts by tiny BERTs and a tiny Qwen3 embedding model: they are llama.cpp's own, alone and in a batch."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import llama_cpp
import numpy as np
import numpy.typing as npt
import openai
import pytest

from tests.backends.llamacpp.worker import Client, Worker, started, user

EMBEDDINGS = "/v1/embeddings"
TEXTS = [
    "The sky is blue.",
    "",
    "Why is the water of the sea blue and not green? " * 4,
    "Hà Nội",
    "two people live in this city",
]
N_EMBD = 64
Vectors = npt.NDArray[np.float32]


@pytest.fixture(scope="module", params=["bert", "bert-cls", "qwen3-embedding"])
def model(request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]) -> Path:
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def embedder(model: Path) -> Iterator[Worker]:
    """A batch holds two or three of the texts. The vectors of Qwen's may be cut short."""
    flags = ["--matryoshka"] if model.stem == "qwen3-embedding" else []
    with started("--n-batch", "64", *flags, model=model) as worker:
        yield worker


@pytest.fixture
async def client(embedder: Worker) -> AsyncIterator[Client]:
    async with embedder.client() as client:
        yield client


@pytest.fixture(scope="module")
def expected(model: Path) -> Vectors:
    """Each text alone, by llama.cpp's own Python class."""
    llama = llama_cpp.Llama(str(model), n_ctx=128, n_threads=1, n_threads_batch=1, embedding=True, verbose=False)
    try:
        return np.array([llama.embed(text, normalize=True) for text in TEXTS], np.float32)
    finally:
        llama.close()


async def embed(client: Client, given: Any, **fields: Any) -> Vectors:
    answer = await client.ok(EMBEDDINGS, {"input": given, **fields})
    assert [entry["index"] for entry in answer["data"]] == list(range(len(answer["data"])))
    return np.array([entry["embedding"] for entry in answer["data"]], np.float32)


def only(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("model", names, indirect=True, scope="module")


async def test_vectors_of_texts_alone_are_those_of_llama(client: Client, expected: Vectors) -> None:
    for text, vector in zip(TEXTS, expected, strict=True):
        np.testing.assert_allclose((await embed(client, text))[0], vector, atol=2e-3)


async def test_vectors_of_texts_in_a_batch_are_those_of_llama(client: Client, expected: Vectors) -> None:
    found = await embed(client, TEXTS * 3)
    np.testing.assert_allclose(found, np.tile(expected, (3, 1)), atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


async def test_vectors_of_many_requests_at_once_are_those_of_llama(client: Client, expected: Vectors) -> None:
    found = await asyncio.gather(*(embed(client, text) for text in TEXTS * 4))
    np.testing.assert_allclose(np.concatenate(found), np.tile(expected, (4, 1)), atol=2e-3)


async def test_numbers_are_the_same_as_base64(client: Client) -> None:
    numbers = await embed(client, TEXTS, encoding_format="float")
    answer = await client.ok(EMBEDDINGS, {"input": TEXTS, "encoding_format": "base64"})
    spelt = [base64.b64decode(entry["embedding"]) for entry in answer["data"]]
    np.testing.assert_array_equal(numbers, [np.frombuffer(raw, "<f4") for raw in spelt])


async def test_tokens_are_embedded_as_they_are(client: Client) -> None:
    tokens = [await client.tokens_of(text, add_special=True) for text in TEXTS]
    np.testing.assert_allclose(await embed(client, tokens), await embed(client, TEXTS), atol=1e-6)
    np.testing.assert_allclose(await embed(client, tokens[0]), await embed(client, TEXTS[0]), atol=1e-6)
    answer = await client.ok(EMBEDDINGS, {"input": tokens})
    n_tokens = sum(map(len, tokens))
    assert answer["usage"] == {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    assert (answer["object"], answer["model"]) == ("list", "small")


def test_openai_sdk_gets_its_vectors(embedder: Worker, expected: Vectors) -> None:
    """It asks for base64 by itself."""
    over_socket = httpx2.Client(transport=httpx2.HTTPTransport(uds=str(embedder.socket)))
    with openai.OpenAI(base_url="http://worker/v1", api_key="none", http_client=over_socket) as sdk:
        answer = sdk.embeddings.create(model="small", input=TEXTS)
        numbers = sdk.embeddings.create(model="small", input=TEXTS, encoding_format="float")
    found = np.array([entry.embedding for entry in answer.data], np.float32)
    np.testing.assert_array_equal(found, np.array([entry.embedding for entry in numbers.data], np.float32))
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens > len(TEXTS)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": [99999999]}, "input"),
        ({"input": [[-1]]}, "input"),
        ({"input": {"text": "x"}}, "input"),
        ({"input": ["x", 1]}, "input"),
        ({}, "input"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "x", "dimensions": 0}, "dimensions"),
        ({"input": "x", "dimensions": N_EMBD + 1}, "dimensions"),
    ],
)
@only("qwen3-embedding")
async def test_impossible_body_is_refused(client: Client, body: dict[str, Any], param: str) -> None:
    status, error = await client.error(EMBEDDINGS, body)
    assert status == 400
    assert str(error["param"]).startswith(param)


@only("qwen3-embedding")
async def test_vector_is_cut_short_where_the_model_allows_it(client: Client) -> None:
    whole, short = await embed(client, TEXTS), await embed(client, TEXTS, dimensions=16)
    cut = whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True)
    np.testing.assert_allclose(short, cut, atol=1e-6)
    np.testing.assert_array_equal(await embed(client, TEXTS, dimensions=N_EMBD), whole)


@only("bert")
async def test_vector_is_not_cut_short_where_the_model_does_not_allow_it(client: Client) -> None:
    status, error = await client.error(EMBEDDINGS, {"input": "x", "dimensions": 16})
    assert (status, error["param"]) == (400, "dimensions")
    await embed(client, "x", dimensions=N_EMBD)


@only("bert")
async def test_text_longer_than_the_model_reads_is_refused_with_both_numbers(client: Client) -> None:
    n_ctx = 128
    longest = await embed(client, "sky " * (n_ctx - 2))
    assert longest.shape == (1, N_EMBD)
    status, error = await client.error(EMBEDDINGS, {"input": ["sky", "sky " * (n_ctx - 1)]})
    assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "input")
    assert "128 tokens, input 1 has 129" in error["message"]


async def test_model_that_embeds_does_not_generate(client: Client) -> None:
    for path, body in (
        ("/v1/chat/completions", {"messages": [user("Hi")]}),
        ("/v1/completions", {"prompt": "Hi"}),
    ):
        status, error = await client.error(path, body)
        assert (status, error["code"]) == (400, "unsupported_operation")


async def test_batches_are_counted(client: Client) -> None:
    before = await client.metrics()
    await embed(client, TEXTS)
    after = await client.metrics()
    assert after["prompt_tokens_total"] > before["prompt_tokens_total"]
    assert after["steps_total"] > before["steps_total"]
    assert await client.is_idle()


async def test_model_that_generates_does_not_embed(worker: Worker) -> None:
    async with worker.client() as client:
        status, error = await client.error(EMBEDDINGS, {"input": "Hi"})
    assert (status, error["code"]) == (400, "unsupported_operation")


@pytest.fixture
def wanted(tiny_model: Callable[[str], Path]) -> Iterator[Worker]:
    with started("--embedding", model=tiny_model("qwen3")) as worker:
        yield worker


async def test_any_model_embeds_when_told_to(wanted: Worker) -> None:
    async with wanted.client() as client:
        vectors = await embed(client, ["the sky", "the sky", "the sea"])
    assert vectors.shape == (3, N_EMBD)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    assert vectors[0] @ vectors[2] < 0.99
