"""The thread that owns an embedding model's context and computes one batch of texts after another."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import InvalidStateError
from contextlib import suppress

import numpy as np

from backends.llamacpp.embedding_queue import EmbeddingJob, EmbeddingQueue, Place, Vector
from backends.llamacpp.native import DecodeError, EmbeddingContext
from backends.llamacpp.step_loop import MAX_FAILED_STEPS
from backends.llamacpp.step_stats import StepStats


class EmbeddingFailed(Exception):
    """llama.cpp did not compute a text's batch, or what it computed is no vector."""


class EmbeddingLoop:
    """`embed` belongs to the event loop. After `MAX_FAILED_STEPS` failed batches in a row the thread ends and
    `on_broken` is told why, on that thread."""

    def __init__(self, context: EmbeddingContext, *, n_batch: int, on_broken: Callable[[str], None]) -> None:
        self.n_embd = context.n_embd
        self.stats = StepStats()
        self._context = context
        self._on_broken = on_broken
        self._queue = EmbeddingQueue(n_batch=n_batch, n_texts=context.options.n_texts)
        self._arrivals: queue.SimpleQueue[EmbeddingJob | None] = queue.SimpleQueue()
        self._n_failed_in_a_row = 0
        self._thread = threading.Thread(target=self._run, name="llama-embed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the batch it is in; waits for it."""
        self._arrivals.put(None)
        self._thread.join()

    async def embed(self, texts: Sequence[Sequence[int]]) -> list[Vector]:
        """Vectors of length one for texts in tokens, in their order. Raises `EmbeddingFailed`.

        Cancelling it leaves out what was not computed yet.
        """
        job = EmbeddingJob(texts)
        self._arrivals.put(job)
        return await asyncio.wrap_future(job.result)

    def _run(self) -> None:
        try:
            while self._take_in():
                started = time.perf_counter()
                batch = self._queue.take()
                self.stats.n_running, self.stats.n_waiting = len(batch), len(self._queue)
                if batch:
                    self._compute(batch)
                    self.stats.step_s += time.perf_counter() - started
        except Exception as error:  # noqa: BLE001 - nobody else would hear of it, and every request would hang
            self._on_broken(f"the embedding thread ended: {type(error).__name__}")

    def _take_in(self) -> bool:
        """Queue what has come, waiting while there is nothing to compute. False: end."""
        while True:
            try:
                job = self._arrivals.get(block=not self._queue)
            except queue.Empty:
                return True
            if job is None:
                return False
            self._queue.submit(job)

    def _compute(self, batch: list[Place]) -> None:
        started = time.perf_counter()
        try:
            vectors = self._context.embed([place.tokens for place in batch])
        except DecodeError as error:
            self._fail(batch, error)
            return
        finally:
            self.stats.decode_s += time.perf_counter() - started
            self.stats.n_running = 0
        self._n_failed_in_a_row = 0
        self.stats.n_steps += 1
        self.stats.n_prompt_tokens += sum(len(place.tokens) for place in batch)
        for place, vector in zip(batch, _of_length_one(vectors), strict=True):
            self._settle(place, vector)

    def _settle(self, place: Place, vector: Vector) -> None:
        job = place.job
        if not np.isfinite(vector).all():
            self._give_up(job, "the model's numbers overflowed")
            return
        job.vectors[place.index] = vector
        if len(job.vectors) == len(job.texts):
            with suppress(InvalidStateError):  # the client has left meanwhile
                job.result.set_result([job.vectors[i] for i in range(len(job.texts))])

    def _fail(self, batch: list[Place], error: DecodeError) -> None:
        self.stats.n_failed_steps += 1
        self._n_failed_in_a_row += 1
        for job in {place.job for place in batch}:
            self._give_up(job, str(error))
        if self._n_failed_in_a_row >= MAX_FAILED_STEPS:
            self._arrivals.put(None)
            self._on_broken(f"{error}; " + " ".join(error.log[-3:]))

    def _give_up(self, job: EmbeddingJob, why: str) -> None:
        self._queue.drop(job)
        with suppress(InvalidStateError):
            job.result.set_exception(EmbeddingFailed(why))


def _of_length_one(vectors: Vector) -> Vector:
    """float32[n, n_embd], each row divided by its length; one without length stays as it is."""
    lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    lengths[lengths == 0] = 1
    normal: Vector = vectors / lengths
    return normal
