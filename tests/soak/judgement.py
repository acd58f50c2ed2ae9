"""What a soak has to show, and what of it was not so: one line each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.soak.record import Soak, elapsed, ends, latency, ttft
from tests.soak.traffic import CLASSES
from tests.soak.verdict import End
from tests.soak.vitals import Vitals, trends

_MIB: Final = 1 << 20
MAX_GROWTH_MIB: Final = 16.0
MAX_SLOPE_MIB_PER_H: Final = 24.0
SLOPE_FROM_S: Final = 600.0
"""A slope of a shorter time is noise."""
IDLE_SLACK: Final = 12
"""Descriptors more than before: connections to engines that are kept open for the next request."""
MAX_LATE_S: Final = 0.1
HEALTH_LIMIT_S: Final = 2.0
LEAST_OVERLOAD: Final = 1.5
WARD_ANSWERED: Final = 0.99
_MOST_LINES: Final = 10
_ONLY_IN_FAULTS: Final = (End.UNAVAILABLE, End.TIMED_OUT, End.BROKEN)


def violations(soak: Soak) -> list[str]:
    """Nothing, where all held."""
    found = [
        *_first(_wrong_ends(soak)),
        *_first(_dishonest_health(soak)),
        *(f"{one.service} had not recovered 40 s after {one.kind}" for one in soak.sufferings if not one.has_recovered),
        *soak.chore_problems,
        *_growth(soak),
        *_leaks(*soak.idle),
        *soak.parting,
        *_no_overload(soak),
    ]
    return found if soak.equal_keys else [*found, *_priority_lost(soak)]


def _first(lines: Iterator[str]) -> Iterator[str]:
    every = list(lines)
    yield from every[:_MOST_LINES]
    if len(every) > _MOST_LINES:
        yield f"… and {len(every) - _MOST_LINES} more like these"


def _wrong_ends(soak: Soak) -> Iterator[str]:
    for one in soak.outcomes:
        where = f"{one.of} {one.kind} at {one.service}, {one.elapsed_s:.2f} s"
        if one.end is End.WRONG:
            yield f"{where}: {one.problem}"
        elif one.end in _ONLY_IN_FAULTS and not soak.is_disturbed(one.service, one.began, one.ended):
            yield f"{where}: {one.end} while nothing was wrong with the engines"


def _dishonest_health(soak: Soak) -> Iterator[str]:
    for one in soak.healths:
        if one.took_s > HEALTH_LIMIT_S and soak.lateness_s <= MAX_LATE_S:
            yield f"/health of {one.service} took {one.took_s:.2f} s"
        if one.status != 200 and not one.says_when:
            yield f"/health of {one.service}: {one.status} without Retry-After"
        if one.status != 200 and not soak.is_disturbed(one.service, one.asked, one.asked + one.took_s):
            yield f"/health of {one.service} was {one.status} while nothing was wrong with the engines"


def _growth(soak: Soak) -> Iterator[str]:
    phase = soak.phase("overload")
    found = trends(soak.vitals_of(phase))
    memory = found["rss_bytes"]
    if memory.growth > MAX_GROWTH_MIB * _MIB:
        yield f"memory grew by {memory.growth / _MIB:.1f} MiB under the load"
    if phase.ended - phase.began >= SLOPE_FROM_S and memory.per_hour > MAX_SLOPE_MIB_PER_H * _MIB:
        yield f"memory grows by {memory.per_hour / _MIB:.1f} MiB an hour"
    if found["n_threads"].growth > IDLE_SLACK:
        yield f"threads grew by {found['n_threads'].growth:g}"


def _leaks(before: Vitals, after: Vitals) -> Iterator[str]:
    for name, slack in (("n_fds", IDLE_SLACK), ("n_tasks", IDLE_SLACK), ("n_children", 0)):
        was, now = getattr(before, name), getattr(after, name)
        if now > was + slack:
            yield f"{name} at rest: {was} before the load, {now} after it"


def _no_overload(soak: Soak) -> Iterator[str]:
    phase = soak.phase("overload")
    offered = sum(phase.has(one) for one in soak.outcomes) / (phase.ended - phase.began)
    if offered < LEAST_OVERLOAD * soak.capacity_per_s:
        yield f"there was no overload: {offered:.1f} requests/s were sent, {soak.capacity_per_s:.1f} can be answered"


def _priority_lost(soak: Soak) -> Iterator[str]:
    """Those of high priority wait for a place that comes free, at most as long as one answer takes, and no longer."""
    if soak.lateness_s > MAX_LATE_S:
        late = f"1 in 100 requests was sent {soak.lateness_s:.2f} s late"
        yield f"the machine was too busy for its latencies to be judged: {late}"
        return
    ward, *_, batch = CLASSES
    calm = soak.of(soak.phase("calm"), ward.name, undisturbed=True)
    pressed = soak.of(soak.phase("overload"), ward.name, undisturbed=True)
    for what, of in (("first word", ttft), ("whole answer", elapsed)):
        was, now = latency(calm, of).p95_s, latency(pressed, of).p95_s
        if was is None or now is None:
            yield f"{what} of {ward.name}: too few answers to tell"
        elif now > was + soak.answer_s:
            yield (
                f"{what} of {ward.name}: p95 {now:.2f} s under the overload, {was:.2f} s before; "
                f"more than the {soak.answer_s:.2f} s of one answer were added"
            )
    met = ends(pressed)
    met.pop(End.LEFT, None)
    if met[End.WHOLE] < WARD_ANSWERED * met.total():
        yield f"of {ward.name} only {met[End.WHOLE]} of {met.total()} were answered"
    if not ends(soak.of(soak.phase("overload"), batch.name))[End.REFUSED]:
        yield f"of {batch.name} nothing was refused"
