"""How fast an engine writes, from moments that a test makes up."""

from __future__ import annotations

from typing import Any

import pytest

from gguf_server.stream_speed import Sample, SpeedRecord, StreamTimer

STEP_S = 0.02
USAGE = {"prompt_tokens": 100, "completion_tokens": 51}


def timed(n_pieces: int = 51, *, away_s: float = 0.0, first_s: float = 3.0) -> StreamTimer:
    """The role after `first_s`, then a piece with each step, each `away_s` with the client."""
    timer, now = StreamTimer(), first_s
    timer.heard(now)
    timer.waits(now)
    now += 5.0  # a prompt that is computed after the role was sent
    for _ in range(n_pieces):
        timer.heard(now)
        timer.waits(now + away_s)
        now += STEP_S
    return timer


def test_speed_is_that_of_the_tokens_and_not_of_the_prompt_before_them() -> None:
    sample = timed().sample({}, USAGE)
    assert sample is not None
    assert sample.tokens_per_s == pytest.approx(1 / STEP_S)
    assert sample.n_context == 100 + 51 / 2


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        ({"n": 2}, USAGE),
        ({"best_of": 3}, USAGE),
        ({"include_reasoning": False}, USAGE),
        ({}, {**USAGE, "completion_tokens": 8}),
        ({}, {}),
        ({}, {"completion_tokens": "many"}),
    ],
)
def test_streams_that_tell_nothing_are_left_out(body: dict[str, Any], usage: dict[str, Any]) -> None:
    assert timed().sample(body, usage) is None


def test_a_client_that_reads_slowly_says_nothing_of_the_engine() -> None:
    assert timed(away_s=STEP_S / 2).sample({}, USAGE) is None


def test_a_stream_in_company_says_nothing_of_one_alone() -> None:
    timer = timed()
    timer.was_alone = False
    assert timer.sample({}, USAGE) is None


def test_an_answer_that_came_in_one_piece_has_no_speed() -> None:
    assert timed(n_pieces=1).sample({}, USAGE) is None


def test_record_tells_medians_of_the_last_streams_and_judges_after_three() -> None:
    record = SpeedRecord()
    assert record.typical() is None
    for rate in (50.0, 10.0):
        record.note(Sample(rate, 100))
    assert not record.can_judge
    record.note(Sample(48.0, 300))
    assert record.can_judge
    assert record.typical() == Sample(48.0, 100)
    for _ in range(40):
        record.note(Sample(20.0, 7))
    assert record.typical() == Sample(20.0, 7)
    assert record.n_streams == 43
