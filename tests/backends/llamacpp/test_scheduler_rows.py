from __future__ import annotations

import numpy as np

from backends.llamacpp.logprobs import score
from backends.llamacpp.scheduler import Scheduler
from backends.llamacpp.sequence import Piece, Sequence
from tests.backends.llamacpp.cells import FakeCells
from tests.backends.llamacpp.scheduling import advance, answering, asked, scheduler, sizes


def rated_in(scheduler: Scheduler, pieces: list[Piece]) -> dict[Sequence, list[int]]:
    """Prompt tokens that a step rates; settles it."""
    fake = scheduler.cache._cells
    assert isinstance(fake, FakeCells)
    rated: dict[Sequence, list[int]] = {}
    for piece in pieces:
        fake.compute(piece.seq_id, piece.sequence.tokens[piece.start : piece.start + piece.n_tokens])
        if piece.sequence.score_from is not None:
            logits = np.zeros((piece.n_outputs, 200), np.float32)
            rated[piece.sequence] = [one.token for one in score(piece, logits, 0)]
    for sequence in scheduler.settle(pieces):
        sequence.tokens.append(9)
    return rated


def scored(prompt: list[int]) -> Sequence:
    return Sequence(list(prompt), len(prompt), 5, score_from=0)


def test_prompts_that_are_scored_share_the_rows_there_are_and_each_token_is_rated_once() -> None:
    one = scheduler()
    plain, first, second = asked([1] * 30), scored(list(range(60))), scored(list(range(100, 140)))
    for sequence in (plain, first, second):
        one.submit(sequence)
    rated: dict[Sequence, list[int]] = {first: [], second: []}
    while first.score_from is not None or second.score_from is not None:
        pieces = one.plan(1000)
        assert sum(piece.n_outputs for piece in pieces if piece.sequence.score_from is not None) <= one.n_score_rows
        assert all(piece.n_outputs == int(piece.wants_logits) for piece in pieces if piece.sequence is plain)
        for sequence, tokens in rated_in(one, pieces).items():
            rated[sequence] += tokens
    assert rated == {first: list(range(60)), second: list(range(100, 140))}
    assert first.n_reused_tokens == second.n_reused_tokens == 0


def test_what_is_found_of_a_prompt_that_is_scored_is_computed_again() -> None:
    one = scheduler()
    before, again = asked(list(range(60))), scored(list(range(60)))
    one.submit(before)
    advance(one)
    one.release(before)
    one.submit(again)
    assert sizes(one.plan(1000)) == {again: one.n_score_rows}
    assert again.n_past == 0


def test_prompt_that_lost_its_cells_is_rated_on_from_where_it_was() -> None:
    one = scheduler()
    older, younger = asked([1] * 20), scored(list(range(20)))
    one.submit(older)
    one.submit(younger)
    rated = rated_in(one, one.plan(1000))[younger]
    while one.cache.evict():
        pass
    assert one.make_room()
    assert younger.seq_id is None
    for _ in range(9):
        rated += rated_in(one, one.plan(1000)).get(younger, [])
    assert rated == list(range(20))


def test_guesses_that_came_true_stay_in_the_cells_and_the_others_go() -> None:
    one = scheduler()
    (sequence,) = answering(one, [1] * 20)
    n_before = sequence.n_past
    (piece,) = one.plan(100, {sequence: [5, 6, 7, 8]})
    assert (piece.n_tokens, piece.draft, piece.n_rows, piece.n_outputs) == (1, (5, 6, 7, 8), 5, 5)
    fake = one.cache._cells
    assert isinstance(fake, FakeCells)
    fake.compute(piece.seq_id, [*sequence.tokens[-1:], *piece.draft])
    assert list(one.settle([piece])) == [sequence]
    sequence.tokens += [5, 6, 9]
    assert one.accept(sequence, 2)
    assert sequence.n_past == n_before + 3
    assert sequence.is_decoding
    assert fake.tokens(piece.seq_id) == sequence.tokens[:-1]
    one.cache.check()


def test_guesses_take_no_room_that_a_prompt_needs() -> None:
    one = scheduler(n_parallel=2, n_ctx=100, n_cells=100, n_batch=100)
    (first,) = answering(one, [1] * 20)
    second = asked([2] * 70)
    one.submit(second)
    pieces = one.plan(100, {first: [5] * 15})
    assert sizes(pieces) == {first: 1, second: 70}
    assert sum(piece.n_rows for piece in pieces) <= 100 - first.n_past
