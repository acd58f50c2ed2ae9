"""The open and the closed loop, against a server that says what it is told to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import islice, pairwise
from statistics import fmean

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.measuring.drive import Person, Sleep, arrivals, drive, people_of
from bench.measuring.figures import LatencyTarget, figures
from bench.measuring.load import Clock, Request, Target
from bench.records.record import ClosedLoad, Load, OpenLoad
from bench.workloads.scenario import Scenario, Script
from tests.bench.clocks import SetClock
from tests.bench.fake_server import FakeServer

Start = Callable[[FakeServer], Awaitable[Target]]


@pytest.fixture
def start(aiohttp_server: Callable[[web.Application], Awaitable[TestServer]]) -> Start:
    async def start_server(fake: FakeServer) -> Target:
        server = await aiohttp_server(fake.app())
        return Target("fake", str(server.make_url("/")), "tiny", extra_fields={"ignore_eos": True, "top_k": 1})

    return start_server


def talk(n_turns: int = 1, system: str = "") -> Scenario:
    def script(seed: str, number: int) -> Script:
        return Script(tuple(f"{seed} {number} {turn}" for turn in range(n_turns)), system)

    return Scenario("talk", script, max_tokens=2, timeout_s=30)


async def driven(
    target: Target,
    scenario: Scenario,
    load: Load,
    people: int,
    *,
    clock: Clock = time.perf_counter,
    sleep: Sleep = asyncio.sleep,
    on_answer: Callable[[Request], None] = lambda request: None,
) -> list[Person]:
    everybody = people_of(scenario, "a", people)
    await drive(target, scenario, load, everybody, seed="a", clock=clock, sleep=sleep, on_answer=on_answer)
    return everybody


async def test_in_the_open_loop_everybody_is_sent_though_nobody_is_answered(start: Start) -> None:
    fake, clock = FakeServer(together=4), SetClock()
    target = await start(fake)
    people = await driven(target, talk(), OpenLoad(rate_per_s=2.0), 4, clock=clock, sleep=clock.sleep)
    times_s = [100.0 + time_s for time_s in islice(arrivals(2.0, "a"), 4)]
    assert [person.turns[0].sent_s for person in people] == pytest.approx(times_s)
    assert [person.turns[0].due_s for person in people] == pytest.approx(times_s)
    assert not any(person.has_failed for person in people)


async def test_a_request_that_is_sent_after_its_time_is_counted_and_moves_no_other(start: Start) -> None:
    clock = SetClock(oversleeps_s=0.2)
    target = await start(FakeServer())
    people = await driven(target, talk(), OpenLoad(rate_per_s=1.0), 3, clock=clock, sleep=clock.sleep)
    requests = [person.turns[0] for person in people]
    due_s = [request.due_s for request in requests if request.due_s is not None]
    assert due_s == pytest.approx([100.0 + time_s for time_s in islice(arrivals(1.0, "a"), 3)])
    found = figures(requests, 2, LatencyTarget())
    assert (found["late_sends"], found["late_s_max"]) == pytest.approx((3, 0.2))


def test_arrivals_depend_on_the_seed_and_come_at_the_rate() -> None:
    times_s = list(islice(arrivals(5.0, "a"), 5000))
    assert times_s == list(islice(arrivals(5.0, "a"), 5000)) != list(islice(arrivals(5.0, "b"), 5000))
    gaps_s = [later - earlier for earlier, later in pairwise(times_s)]
    assert fmean(gaps_s) == pytest.approx(0.2, rel=0.05)
    assert fmean(gap_s**2 for gap_s in gaps_s) == pytest.approx(2 * 0.2**2, rel=0.1)


async def test_streams_are_full_until_nobody_waits(start: Start) -> None:
    fake = FakeServer(together=3)
    people = await driven(await start(fake), talk(), ClosedLoad(3), 6)
    assert [person.turns[0].error for person in people] == [None] * 6
    assert len({body["messages"][0]["content"] for body in fake.bodies}) == 6
    assert all(person.turns[0].due_s is None for person in people)


async def test_the_next_turn_waits_for_those_who_had_none_and_has_the_whole_history(start: Start) -> None:
    fake = FakeServer()
    seen: list[Request] = []
    await driven(await start(fake), talk(2, "Be brief."), ClosedLoad(1), 2, on_answer=seen.append)
    said = [[message["content"] for message in body["messages"]] for body in fake.bodies]
    assert said == [
        ["Be brief.", "a 0 0"],
        ["Be brief.", "a 1 0"],
        ["Be brief.", "a 0 0", "wordword", "a 0 1"],
        ["Be brief.", "a 1 0", "wordword", "a 1 1"],
    ]
    assert [request.error for request in seen] == [None] * 4


@pytest.mark.parametrize("load", [ClosedLoad(2), OpenLoad(1000.0)])
async def test_whoever_is_not_answered_says_no_more(start: Start, load: ClosedLoad | OpenLoad) -> None:
    clock = SetClock()
    target = await start(FakeServer(status=429))
    people = await driven(target, talk(3), load, 2, clock=clock, sleep=clock.sleep)
    assert [[turn.error_kind for turn in person.turns] for person in people] == [["http_429"]] * 2


async def test_answers_that_end_freely_are_asked_for_without_what_keeps_them_going(start: Start) -> None:
    fake = FakeServer(ends_after=1)
    free = replace(talk(), ends_freely=True, fields={"response_format": {"type": "json_object"}})
    [person] = await driven(await start(fake), free, ClosedLoad(1), 1)
    assert person.turns[0].error is None
    [body] = fake.bodies
    assert "ignore_eos" not in body
    assert (body["top_k"], body["response_format"]) == (1, {"type": "json_object"})


async def test_an_answer_of_the_wrong_length_or_of_nothing_is_an_error(start: Start) -> None:
    target = await start(FakeServer(ends_after=1))
    [person] = await driven(target, talk(), ClosedLoad(1), 1)
    assert person.turns[0].error_kind == "wrong_length"
    target = await start(FakeServer(ends_after=0))
    [person] = await driven(target, replace(talk(), ends_freely=True), ClosedLoad(1), 1)
    assert person.turns[0].error == "0 chunks of text, finish_reason stop"


async def test_thoughts_are_text_but_not_part_of_what_is_said_next(start: Start) -> None:
    fake = FakeServer(thoughts=("hm", "hm"), says=("yes", "!"))
    scenario = replace(talk(2), ends_freely=True)
    [person] = await driven(await start(fake), scenario, ClosedLoad(1), 1)
    assert (person.turns[0].text, person.turns[0].answer) == ("hmhmyes!", "yes!")
    assert person.turns[0].first_said_s == person.turns[0].chunk_s[2]
    assert fake.bodies[1]["messages"][1] == {"role": "assistant", "content": "yes!"}


async def test_completions_get_the_text_alone(start: Start) -> None:
    fake = FakeServer()
    await driven(await start(fake), replace(talk(), is_chat=False), ClosedLoad(1), 1)
    assert [body["prompt"] for body in fake.bodies] == ["a 0 0"]
