"""The soak sees what it is there to see, and passes on a gateway that is in order."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.backends.fake_engine import numbered
from tests.soak import report
from tests.soak.__main__ import soaked
from tests.soak.client import Outcome
from tests.soak.faults import Suffering
from tests.soak.judgement import violations
from tests.soak.operator import Health
from tests.soak.program import N_WORDS
from tests.soak.record import Phase, Soak
from tests.soak.traffic import CHAT, SIMPLE, Ask, draw
from tests.soak.verdict import End, Heard, judge
from tests.soak.vitals import Vitals

WORDS = numbered("w", N_WORDS)
STREAM = Ask("chat", CHAT, {"messages": [], "stream": True})
HELD = Ask("json", CHAT, {**STREAM.body, "response_format": {"type": "json_object"}})
MIB = 1 << 20


def heard(*words: str, finish: str | None = "stop", **seen: Any) -> Heard:
    result = Heard(status=200)
    for word in words:
        result.take({"choices": [{"delta": {"content": word}, "finish_reason": None}]})
    result.take({"choices": [{"delta": {}, "finish_reason": finish}]})
    for name, value in {"is_done": True, **seen}.items():
        setattr(result, name, value)
    return result


@pytest.mark.parametrize(
    ("answer", "ask", "end"),
    [
        (heard(*WORDS), STREAM, End.WHOLE),
        (heard(*WORDS, n_tokens=N_WORDS), STREAM, End.WHOLE),
        (heard(*WORDS, n_tokens=N_WORDS + 1), STREAM, End.WRONG),
        (heard(*WORDS[:9], WORDS[8], *WORDS[9:]), STREAM, End.WRONG),
        (heard(*WORDS[:9], *WORDS[10:]), STREAM, End.WRONG),
        (heard(*WORDS, is_done=False), STREAM, End.WRONG),
        (heard(*WORDS, n_after_done=1), STREAM, End.WRONG),
        (heard(*WORDS, finish="length"), STREAM, End.WRONG),
        (heard(*WORDS, is_done=False), Ask("simple", SIMPLE, {"messages": []}), End.WRONG),
        (heard(*WORDS[:5], cut="reset"), STREAM, End.WRONG),
        (heard(*WORDS[:5], error="engine_failed"), HELD, End.BROKEN),
        (heard(*WORDS[:5], error="engine_failed"), STREAM, End.WRONG),
        (heard(*WORDS[:5], error="engine_failed", is_done=False), HELD, End.WRONG),
        (heard(*WORDS[1:5], error="engine_failed"), HELD, End.WRONG),
        (heard(*WORDS[:5], error="request_timeout"), STREAM, End.TIMED_OUT),
        (heard(*WORDS[:5], has_left=True), STREAM, End.LEFT),
        (heard(*WORDS[1:5], has_left=True), STREAM, End.WRONG),
        (Heard(429, {"Retry-After": "1"}), STREAM, End.REFUSED),
        (Heard(429), STREAM, End.WRONG),
        (Heard(503, {"Retry-After": "2"}), STREAM, End.UNAVAILABLE),
        (Heard(503), STREAM, End.WRONG),
        (Heard(504), STREAM, End.TIMED_OUT),
        (Heard(500), STREAM, End.WRONG),
    ],
)
def test_each_end_is_told_from_the_others(answer: Heard, ask: Ask, end: End) -> None:
    assert judge(answer, ask)[0] is end


def test_every_kind_of_request_is_drawn() -> None:
    dice = random.Random(1)
    kinds = {draw(dice).kind for _ in range(300)}
    assert kinds == {"chat", "short", "whole", "text", "simple", "tools", "json", "long", "leaves"}


def outcome(of: str, at: float, *, end: End = End.WHOLE, took_s: float = 0.5) -> Outcome:
    return Outcome(of, "first", "chat", at, at + took_s, 0.1, end, "")


def vitals(at_s: float, **held: int) -> Vitals:
    usual = Vitals(at_s, 60 * MIB, n_fds=30, n_threads=5, n_tasks=20, n_children=6, cpu_s=0.1 * at_s)
    return replace(usual, **held)


def quiet_soak() -> Soak:
    """One in which all is well: four requests a second can be answered, eight are sent."""
    soak = Soak(seed=1, equal_keys=False, capacity_per_s=4.0, answer_s=0.5)
    soak.phases = [Phase("calm", 0.0, 100.0), Phase("overload", 100.0, 1100.0)]
    soak.outcomes = [outcome("ward", float(at)) for at in range(1100)]
    soak.outcomes += [outcome("batch", 100 + at / 7, end=End.REFUSED) for at in range(7000)]
    soak.vitals = [vitals(float(at)) for at in range(100, 1100, 2)]
    soak.idle = [vitals(0.0), vitals(1200.0)]
    soak.lags_s = [0.001] * 100
    return soak


def test_soak_in_which_all_is_well_has_no_violation() -> None:
    assert violations(quiet_soak()) == []


@pytest.mark.parametrize(
    ("end", "told"),
    [(End.UNAVAILABLE, "unavailable while"), (End.BROKEN, "broken while"), (End.WRONG, "chat at first")],
)
def test_end_that_nothing_excuses_is_a_violation(end: End, told: str) -> None:
    soak = quiet_soak()
    soak.outcomes.append(outcome("office", 500.0, end=end))
    (problem,) = violations(soak)
    assert told in problem
    soak.sufferings.append(Suffering("first", "kill", 499.0, 501.0))
    assert bool(violations(soak)) == (end is End.WRONG)


def test_priority_that_is_not_held_is_a_violation() -> None:
    soak = quiet_soak()
    soak.outcomes += [outcome("ward", 200.0 + at, took_s=1.2) for at in range(100)]
    assert ["whole answer of ward" in problem for problem in violations(soak)] == [True]
    soak.equal_keys = True
    assert violations(soak) == []


def test_priority_is_not_judged_where_the_machine_is_too_busy() -> None:
    soak = quiet_soak()
    soak.lags_s += [0.5] * 10
    (problem,) = violations(soak)
    assert "too busy" in problem


def test_health_that_is_not_honest_is_a_violation() -> None:
    soak = quiet_soak()
    soak.healths = [
        Health("first", 500.0, 0.01, 503, says_when=False),
        Health("first", 600.0, 3.0, 200, says_when=False),
    ]
    assert len(violations(soak)) == 3


@pytest.mark.parametrize("grown", ["rss_bytes", "n_threads"])
def test_growth_under_load_is_a_violation(grown: str) -> None:
    soak = quiet_soak()
    soak.vitals = [vitals(at, **{grown: int(20 * MIB + at * MIB / 20)}) for at in map(float, range(100, 1100, 2))]
    assert any("grew" in problem for problem in violations(soak))


@pytest.mark.parametrize("left", ["n_fds", "n_tasks", "n_children"])
def test_what_is_left_at_rest_is_a_violation(left: str) -> None:
    soak = quiet_soak()
    soak.idle[1] = vitals(1200.0, **{left: 99})
    assert [left in problem for problem in violations(soak)] == [True]


def test_load_that_is_none_is_a_violation() -> None:
    soak = quiet_soak()
    soak.capacity_per_s = 8.0
    assert "there was no overload" in violations(soak)[0]


async def test_a_few_seconds_of_the_real_thing_lose_nothing(tmp_path: Path) -> None:
    soak = await soaked(0.08, seed=3, equal_keys=True, folder=tmp_path)
    lost = [one.problem for one in soak.outcomes if one.end is End.WRONG]
    assert not lost
    assert not soak.parting
    report.write(soak, violations(soak), tmp_path / "out")
    assert (tmp_path / "out" / "soak.md").read_text(encoding="utf-8").startswith("# Soak: ")
