"""The thread that embeds, over a context that computes nothing and fails when told to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from backends.llamacpp.embedding_loop import EmbeddingFailed, EmbeddingLoop
from backends.llamacpp.embedding_queue import Vector
from backends.llamacpp.native import DecodeError, EmbeddingContext
from backends.llamacpp.step_loop import MAX_FAILED_STEPS

WAIT_S = 9.0


class ScriptedContext:
    """A text's vector points along its first token's axis, three long. `gate` holds batches up while it is closed."""

    n_embd = 4
    options = SimpleNamespace(n_texts=2)

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.failing = False
        self.overflowing = False
        self.batches: list[list[Sequence[int]]] = []

    def embed(self, texts: Sequence[Sequence[int]]) -> Vector:
        self.entered.set()
        assert self.gate.wait(WAIT_S)
        self.batches.append(list(texts))
        if self.failing:
            raise DecodeError(-3, ("out of luck",))
        vectors = np.zeros((len(texts), self.n_embd), np.float32)
        for row, tokens in enumerate(texts):
            vectors[row, tokens[0]] = 3.0 if len(tokens) > 1 else 0.0
        if self.overflowing:
            vectors[0] = np.nan
        return vectors


@pytest.fixture
def context() -> ScriptedContext:
    return ScriptedContext()


@pytest.fixture
def broken() -> list[str]:
    return []


@pytest.fixture
def loop(context: ScriptedContext, broken: list[str]) -> Iterator[EmbeddingLoop]:
    made = EmbeddingLoop(cast(EmbeddingContext, context), n_batch=8, on_broken=broken.append)
    made.start()
    yield made
    context.gate.set()
    made.stop()


async def test_vectors_have_length_one_and_their_order(loop: EmbeddingLoop, context: ScriptedContext) -> None:
    vectors = await loop.embed([[2, 0], [1, 0], [3, 0, 0]])
    np.testing.assert_array_equal(vectors, np.eye(4, dtype=np.float32)[[2, 1, 3]])
    assert [len(batch) for batch in context.batches] == [2, 1]
    assert (loop.stats.n_steps, loop.stats.n_prompt_tokens) == (2, 7)


async def test_vector_without_a_direction_is_left_as_it_is(loop: EmbeddingLoop) -> None:
    (vector,) = await loop.embed([[1]])
    assert not vector.any()


async def test_failed_batch_fails_whose_texts_were_in_it(loop: EmbeddingLoop, context: ScriptedContext) -> None:
    context.failing = True
    with pytest.raises(EmbeddingFailed):
        await loop.embed([[1, 0]] * 5)
    assert len(context.batches) == 1, "the rest of it is not computed"
    context.failing = False
    assert len(await loop.embed([[1, 0]])) == 1


async def test_numbers_that_overflowed_are_no_vector(loop: EmbeddingLoop, context: ScriptedContext) -> None:
    context.overflowing = True
    with pytest.raises(EmbeddingFailed):
        await loop.embed([[1, 0]] * 5)
    context.overflowing = False
    assert len(await loop.embed([[1, 0]])) == 1


async def test_failures_in_a_row_end_it(loop: EmbeddingLoop, context: ScriptedContext, broken: list[str]) -> None:
    context.failing = True
    for _ in range(MAX_FAILED_STEPS):
        with pytest.raises(EmbeddingFailed):
            await loop.embed([[1, 0]])
    await asyncio.to_thread(loop.stop)
    assert broken == ["llama_decode returned -3; out of luck"]


async def test_client_that_leaves_is_not_computed_for(loop: EmbeddingLoop, context: ScriptedContext) -> None:
    context.gate.clear()
    leaving = asyncio.create_task(loop.embed([[1, 0]] * 6))
    assert await asyncio.to_thread(context.entered.wait, WAIT_S)
    leaving.cancel()
    await asyncio.wait([leaving])
    staying = asyncio.create_task(loop.embed([[2, 0]]))
    context.gate.set()
    assert len(await staying) == 1
    assert context.batches == [[[1, 0], [1, 0]], [[2, 0]]]
