"""A scheduler over cells that only count, stepped by hand."""

from __future__ import annotations

from backends.llamacpp.scheduler import Scheduler
from backends.llamacpp.sequence import Piece, Sequence
from tests.backends.llamacpp.cells import FakeCells, fake_cache


def cells(n_ctx: int = 200, n_parallel: int = 4, **how: bool | str) -> FakeCells:
    return FakeCells(n_ctx * n_parallel, n_ctx, **how)  # type: ignore[arg-type]


def scheduler(n_parallel: int = 4, n_ctx: int = 200, n_cells: int = 800, n_batch: int = 100) -> Scheduler:
    cache = fake_cache(FakeCells(n_cells, n_ctx, shares_cells=n_cells < n_ctx * n_parallel), n_parallel)
    return Scheduler(cache, n_ctx=n_ctx, n_batch=n_batch)


def asked(prompt: list[int], max_tokens: int = 50) -> Sequence:
    return Sequence(list(prompt), len(prompt), max_tokens)


def advance(scheduler: Scheduler, budget: int = 1000) -> list[Piece]:
    pieces = scheduler.plan(budget)
    fake = scheduler.cache._cells
    assert isinstance(fake, FakeCells)
    for piece in pieces:
        fake.compute(piece.seq_id, piece.sequence.tokens[piece.start : piece.start + piece.n_tokens])
    for sequence in scheduler.settle(pieces):
        sequence.tokens.append(9)
    return pieces


def sizes(pieces: list[Piece]) -> dict[Sequence, int]:
    return {piece.sequence: piece.n_tokens for piece in pieces}


def answering(one: Scheduler, *prompts: list[int]) -> list[Sequence]:
    sequences = [asked(prompt) for prompt in prompts]
    for sequence in sequences:
        one.submit(sequence)
    while not all(sequence.is_decoding for sequence in sequences):
        advance(one)
    return sequences
