"""How much of the waiting prompts a step takes."""

from __future__ import annotations

import pytest

from backends.llamacpp.pace import LONGEST_PROMPT_STEP_S, MIN_PROMPT_BUDGET, PROMPT_STEP_S, Pace


def test_budget_is_what_the_last_prompts_let_expect_of_a_step() -> None:
    pace = Pace()
    pace.learn(400, 1.0)
    assert pace.budget(2048, n_answering=4) == int(400 * PROMPT_STEP_S)
    assert pace.budget(80) == 80


def test_short_pieces_teach_nothing() -> None:
    pace = Pace()
    pace.learn(3, 1.0)
    assert pace.tokens_per_s == 0


@pytest.mark.parametrize(("n_answering", "n_unanswered", "step_s"), [(8, 1, 0.25), (8, 6, 0.375), (4, 4, 0.5)])
def test_step_is_longer_while_as_many_wait_as_are_answered(n_answering: int, n_unanswered: int, step_s: float) -> None:
    pace = Pace(tokens_per_s=1000)
    assert PROMPT_STEP_S <= step_s <= LONGEST_PROMPT_STEP_S
    assert pace.budget(2048, n_answering=n_answering, n_unanswered=n_unanswered) == int(1000 * step_s)


def test_slow_machine_takes_a_piece_all_the_same() -> None:
    assert Pace(tokens_per_s=1).budget(2048) == MIN_PROMPT_BUDGET
