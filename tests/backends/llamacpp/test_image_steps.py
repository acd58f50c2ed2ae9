"""Images among the steps: alone in theirs, whole where they must be, and never in the way of texts for long."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from backends.llamacpp.image_marks import ImageMarks, in_parts
from backends.llamacpp.image_runs import ImageRun, ImageTokens, n_text_tokens, position_of, run_at
from backends.llamacpp.native.image_positions import ImagePositions
from backends.llamacpp.scheduler import Scheduler
from backends.llamacpp.sequence import Piece, Sequence
from tests.backends.llamacpp.cells import FakeCells, fake_cache

N_BATCH = 32


def image(n_tokens: int, *, n_positions: int | None = None, is_causal: bool = True) -> ImageTokens:
    places = np.arange(n_tokens, dtype=np.int32)[None]
    return ImageTokens(n_tokens, n_positions or n_tokens, is_causal, places, np.ones_like(places))


def prompt(*parts: int | ImageTokens, max_tokens: int = 3) -> Sequence:
    """A number is so many tokens of text."""
    tokens, runs = list[int](), list[ImageRun]()
    for part in parts:
        if isinstance(part, int):
            tokens += range(len(tokens), len(tokens) + part)
        else:
            runs.append(ImageRun(len(tokens), part))
            tokens += [-1 - id(part) % 1000 - i for i in range(part.n_tokens)]
    return Sequence(tokens, len(tokens), max_tokens, images=tuple(runs))


def scheduler(n_parallel: int = 4, n_cells: int = 1000) -> tuple[Scheduler, FakeCells]:
    cells = FakeCells(n_cells, 500, shares_cells=True)
    return Scheduler(fake_cache(cells, n_parallel, 0), n_ctx=500, n_batch=N_BATCH), cells


def step(scheduler: Scheduler, cells: FakeCells, budget: int = N_BATCH) -> list[Piece]:
    """Compute what is planned, and end who has all its tokens."""
    pieces = scheduler.plan(budget)
    for piece in pieces:
        cells.compute(piece.seq_id, piece.sequence.tokens[piece.start : piece.start + piece.n_tokens])
    for sequence in list(scheduler.settle(pieces)):
        sequence.tokens.append(7)
        if sequence.n_generated_tokens >= sequence.max_tokens:
            scheduler.release(sequence)
    return pieces


def test_an_image_has_a_step_to_itself_and_is_whole_where_its_tokens_look_at_each_other() -> None:
    making, cells = scheduler()
    making.submit(prompt(5, image(20, is_causal=False), 6, image(40), 3))
    seen = []
    while making.has_work:
        seen += [(piece.image is not None, piece.n_tokens) for piece in step(making, cells)]
    assert seen == [(False, 5), (True, 20), (False, 6), (True, 32), (True, 8), (False, 3), (False, 1), (False, 1)]


def test_texts_have_every_other_step() -> None:
    making, cells = scheduler()
    making.submit(prompt(4, max_tokens=50))
    step(making, cells)
    for _ in range(2):
        making.submit(prompt(3, *[image(8, is_causal=False)] * 3, 3))
    kinds = [step(making, cells)[0].image is not None for _ in range(20)]
    assert kinds.count(True) == 6
    assert not any(both == (True, True) for both in itertools.pairwise(kinds))


def test_an_image_in_parts_keeps_to_the_budget_of_a_step_while_others_answer() -> None:
    making, cells = scheduler()
    making.submit(prompt(4, max_tokens=50))
    step(making, cells)
    making.submit(prompt(1, image(30), 1))
    sizes = [piece.n_tokens for _ in range(14) for piece in step(making, cells, budget=10) if piece.image]
    assert sizes == [10, 10, 10]


@given(
    prompts=st.lists(
        st.lists(st.one_of(st.integers(1, 40), st.tuples(st.integers(1, 32), st.booleans())), min_size=1, max_size=5),
        min_size=1,
        max_size=6,
    ),
    n_cells=st.integers(250, 600),
    budget=st.integers(1, N_BATCH),
)
def test_everybody_ends_and_no_step_mixes(
    prompts: list[list[int | tuple[int, bool]]], n_cells: int, budget: int
) -> None:
    making, cells = scheduler(n_cells=n_cells)
    for parts in prompts:
        made = [part if isinstance(part, int) else image(part[0], is_causal=part[1]) for part in parts]
        making.submit(prompt(*made, 1))
    for _ in range(2000):
        if not making.has_work:
            break
        pieces = step(making, cells, budget)
        assert pieces
        for piece in pieces:
            tokens = piece.sequence.tokens[piece.start : piece.start + piece.n_tokens]
            assert all((token < 0) == (piece.image is not None) for token in tokens)
            if piece.image is not None:
                assert len(pieces) == 1
                assert piece.image.image.is_causal or piece.n_tokens == piece.image.image.n_tokens
    assert not making.has_work


def test_positions_behind_an_image_of_three_dimensions() -> None:
    runs = (ImageRun(5, image(12, n_positions=4)), ImageRun(20, image(6, n_positions=3)))
    assert [position_of(runs, index) for index in (0, 5, 17, 20, 26, 30)] == [0, 5, 9, 12, 15, 19]
    assert run_at(runs, 4) is None
    assert run_at(runs, 16) is runs[0]
    assert n_text_tokens(runs, 0, 100) == 5
    assert n_text_tokens(runs, 5, 100) == 0
    assert n_text_tokens(runs, 17, 2) == 2
    assert n_text_tokens(runs, 26, 9) == 9
    found = ImagePositions()
    found.note(3, 5, 8, 4)
    assert found.n_tokens(3, 5) == 13  # a part of it so far
    found.note(3, 5, 12, 4)
    found.note(3, 12, 6, 3)
    assert (found.n_tokens(3, 12), found.n_tokens(3, 15), found.n_tokens(4, -1)) == (26, 27, 0)
    assert [found.position_of(3, n_tokens) for n_tokens in (5, 17, 20, 26)] == [5, 9, 12, 15]
    found.copy(3, 4)
    found.truncate(3, 18)
    assert (found.n_tokens(3, 9), found.n_tokens(4, 15)) == (18, 27)
    found.truncate(3, 0)
    assert 3 not in found
    assert 4 in found


def test_marks_of_another_request_are_text() -> None:
    marks, others = ImageMarks(), ImageMarks()
    part = {"image_url": "data:"}
    first, second, forged = marks.add(part), marks.add(part), others.add(part)
    assert marks.split(f"a{first}b{forged}{second}") == ["a", 0, f"b{forged}", 1, ""]
    assert in_parts([{"role": "user", "content": "x"}]) == [
        {"role": "user", "content": [{"type": "text", "text": "x"}]}
    ]
