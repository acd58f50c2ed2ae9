"""Counting in a window of time: never more than the limit, and a wait that is exact."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_server.limits.windows import DAY, MINUTE, Window, WindowCount

NOON = 20_000 * 86_400 + 43_200.0
STEPS = st.lists(
    st.tuples(st.floats(0, 50, allow_nan=False).map(lambda s: round(s, 3)), st.integers(1, 12)), max_size=60
)
"""Seconds since the request before, and how much is asked for."""


def let_in(window: Window, limit: int, steps: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """(when, how much) of those that were let in, each as soon as it asked or not at all."""
    count, now_s, inside = WindowCount(window), NOON, []
    for pause_s, n in steps:
        now_s += pause_s
        if not count.wait_s(now_s, n, limit):
            count.add(now_s, n)
            inside.append((now_s, min(n, limit)))
    return inside


@given(steps=STEPS, limit=st.integers(12, 40))
def test_no_sixty_seconds_hold_more_than_the_limit(steps: list[tuple[float, int]], limit: int) -> None:
    inside = let_in(MINUTE, limit, steps)
    for start, _ in inside:
        assert sum(n for at, n in inside if start <= at < start + 60) <= limit


@given(steps=st.lists(st.tuples(st.floats(0, 40_000), st.integers(1, 12)), max_size=40), limit=st.integers(12, 40))
def test_no_day_holds_more_than_the_limit(steps: list[tuple[float, int]], limit: int) -> None:
    inside = let_in(DAY, limit, steps)
    for start, _ in inside:
        assert sum(n for at, n in inside if at // 86_400 == start // 86_400) <= limit


@pytest.mark.parametrize("window", [MINUTE, DAY], ids=["minute", "day"])
@given(steps=STEPS, limit=st.integers(12, 40), n=st.integers(1, 12))
def test_after_the_wait_it_is_let_in_and_not_a_moment_before(
    window: Window, steps: list[tuple[float, int]], limit: int, n: int
) -> None:
    count, now_s = WindowCount(window), NOON
    for pause_s, asked in steps:
        now_s += pause_s
        if not count.wait_s(now_s, asked, limit):
            count.add(now_s, asked)
    wait_s = count.wait_s(now_s, n, limit)
    if wait_s:
        due_s = round(now_s + wait_s)  # counts end with a whole second
        assert count.wait_s(math.nextafter(due_s, 0), n, limit) > 0
        assert count.wait_s(due_s, n, limit) == 0


@given(steps=STEPS, limit=st.integers(12, 40), data=st.data())
def test_taking_back_never_makes_room_for_more_than_what_was_really_used(
    steps: list[tuple[float, int]], limit: int, data: st.DataObject
) -> None:
    """Each is counted at first as more than it turns out to be, and put right while or after it counts."""
    count, now_s = WindowCount(MINUTE), NOON
    real: list[tuple[float, int]] = []
    open_holds: list[tuple[int, int]] = []
    for pause_s, n in steps:
        now_s += pause_s
        may_end = data.draw(st.booleans())
        if open_holds and may_end:
            slot, too_much = open_holds.pop(data.draw(st.integers(0, len(open_holds) - 1)))
            count.take_back(now_s, slot, too_much)
        if not count.wait_s(now_s, n, limit):
            slot = count.add(now_s, n)
            used = data.draw(st.integers(0, n))
            open_holds.append((slot, n - used))
            real.append((now_s, used))
        assert 0 <= count.used(now_s) <= limit
    for start, _ in real:
        assert sum(n for at, n in real if start <= at < start + 60) <= limit


def test_what_was_held_too_much_is_free_again_at_once() -> None:
    count = WindowCount(MINUTE)
    slot = count.add(NOON, 100)
    assert count.wait_s(NOON + 1, 50, 100) == 60
    count.take_back(NOON + 1, slot, 80)
    assert count.wait_s(NOON + 1, 50, 100) == 0
    assert count.used(NOON + 1) == 20
    count.take_back(NOON + 62, slot, 20)
    assert count.used(NOON + 62) == 0


def test_more_than_the_limit_itself_is_let_in_when_nothing_else_counts() -> None:
    count = WindowCount(MINUTE)
    assert count.wait_s(NOON, 1000, 10) == 0
    count.add(NOON, 1)
    assert count.wait_s(NOON, 1000, 10) == 61


def test_a_day_begins_at_midnight_utc() -> None:
    count = WindowCount(DAY)
    count.add(NOON, 5)
    assert count.wait_s(NOON, 1, 5) == count.reset_s(NOON) == 43_200
    assert count.used(NOON + 43_199) == 5
    assert count.used(NOON + 43_200) == 0


def test_all_is_as_in_the_beginning_when_the_newest_stops_to_count() -> None:
    count = WindowCount(MINUTE)
    assert count.reset_s(NOON) == 0
    count.add(NOON, 1)
    slot = count.add(NOON + 30.5, 1)
    assert count.reset_s(NOON + 31) == 60
    count.take_back(NOON + 31, slot, 1)
    assert count.reset_s(NOON + 31) == 30


def test_a_clock_that_was_set_back_locks_nobody_out() -> None:
    count = WindowCount(MINUTE)
    count.add(NOON, 10)
    assert count.wait_s(NOON - 1, 1, 10) == 62  # a small step changes nothing
    assert count.wait_s(NOON - 3600, 1, 10) == 0
    count.add(NOON - 3600, 10)
    assert count.used(NOON - 3600) == 10
