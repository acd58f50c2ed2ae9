"""Which texts are embedded next: no I/O, no llama.cpp.

Requests take turns, a text at a time, so that one with a thousand texts does not hold up one with a question.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Vector: TypeAlias = npt.NDArray[np.float32]


@dataclass(slots=True, eq=False)
class EmbeddingJob:
    """The texts of one request, in tokens. `result` gets their vectors; nobody wants them once it is cancelled."""

    texts: Sequence[Sequence[int]]
    result: Future[list[Vector]] = field(default_factory=Future)
    n_taken: int = 0
    vectors: dict[int, Vector] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """Text `index` of a job."""

    job: EmbeddingJob
    index: int

    @property
    def tokens(self) -> Sequence[int]:
        return self.job.texts[self.index]


class EmbeddingQueue:
    """A batch holds at most `n_texts`, and `n_batch` tokens or one longer text."""

    def __init__(self, *, n_batch: int, n_texts: int) -> None:
        self._n_batch = n_batch
        self._n_texts = n_texts
        self._jobs: deque[EmbeddingJob] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def submit(self, job: EmbeddingJob) -> None:
        self._jobs.append(job)

    def take(self) -> list[Place]:
        """The next batch; empty where nothing is wanted."""
        batch: list[Place] = []
        n_tokens = 0
        while self._jobs and len(batch) < self._n_texts:
            job = self._jobs[0]
            if job.result.cancelled():
                self._jobs.popleft()
                continue
            place = Place(job, job.n_taken)
            n_tokens += len(place.tokens)
            if batch and n_tokens > self._n_batch:
                break
            batch.append(place)
            job.n_taken += 1
            self._jobs.popleft()
            if job.n_taken < len(job.texts):
                self._jobs.append(job)
        return batch

    def drop(self, job: EmbeddingJob) -> None:
        """What is left of a job is not to be computed."""
        if job in self._jobs:
            self._jobs.remove(job)
