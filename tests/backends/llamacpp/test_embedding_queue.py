from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.llamacpp.embedding_queue import EmbeddingJob, EmbeddingQueue, Place


def job(*lengths: int) -> EmbeddingJob:
    return EmbeddingJob([[0] * length for length in lengths])


def queue(*jobs: EmbeddingJob, n_batch: int = 10, n_texts: int = 4) -> EmbeddingQueue:
    made = EmbeddingQueue(n_batch=n_batch, n_texts=n_texts)
    for one in jobs:
        made.submit(one)
    return made


def test_requests_take_turns() -> None:
    many, few = job(1, 1, 1, 1, 1), job(1, 1)
    waiting = queue(many, few)
    assert waiting.take() == [Place(many, 0), Place(few, 0), Place(many, 1), Place(few, 1)]
    assert waiting.take() == [Place(many, 2), Place(many, 3), Place(many, 4)]
    assert waiting.take() == []


def test_text_that_does_not_fit_beside_others_is_computed_alone() -> None:
    long = job(25)
    waiting = queue(job(6), long, job(6))
    assert [len(waiting.take()) for _ in range(3)] == [1, 1, 1]
    assert not waiting


def test_texts_that_nobody_waits_for_are_left_out() -> None:
    gone, here = job(1, 1), job(1)
    waiting = queue(gone, here)
    gone.result.cancel()
    assert waiting.take() == [Place(here, 0)]
    assert len(waiting) == 0


def test_rest_of_a_dropped_request_is_not_computed() -> None:
    lost = job(9, 9)
    waiting = queue(lost)
    assert waiting.take() == [Place(lost, 0)]
    waiting.drop(lost)
    waiting.drop(lost)
    assert waiting.take() == []


@given(st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=9), max_size=9))
def test_every_text_is_taken_once_in_batches_that_fit(lengths: list[list[int]]) -> None:
    jobs = [job(*some) for some in lengths]
    waiting = queue(*jobs)
    taken: list[Place] = []
    while batch := waiting.take():
        assert len(batch) <= 4
        assert len(batch) == 1 or sum(len(place.tokens) for place in batch) <= 10
        taken += batch
    assert len(taken) == len(set(taken)) == sum(map(len, lengths))
    assert not waiting
