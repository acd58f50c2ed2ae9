"""A load on one server: people who wait for each other's answers (closed loop), or who come when they come (open).

In the open loop nothing the server does keeps a person from coming: a slow server meets more of them at once. What
can is this client: a request that was sent later than it was due says so.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, repeat
from typing import TypeVar

import aiohttp

from bench.measuring.load import Clock, Request, Target, connect, send, shortfall
from bench.records.record import ClosedLoad, Load
from bench.workloads.scenario import Scenario, Script

Sleep = Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class Person:
    """`due_s`: when the first turn should have been sent, where that does not depend on answers."""

    script: Script
    messages: list[dict[str, object]] = field(default_factory=list)
    turns: list[Request] = field(default_factory=list)
    due_s: float | None = None

    def __post_init__(self) -> None:
        if self.script.system:
            self.messages.append({"role": "system", "content": self.script.system})

    @property
    def has_failed(self) -> bool:
        return any(turn.error is not None for turn in self.turns)

    @property
    def has_more_to_say(self) -> bool:
        return not self.has_failed and len(self.turns) < len(self.script.says)


P = TypeVar("P")
Turn = Callable[[Person], Awaitable[bool]]


def people_of(scenario: Scenario, seed: str, n_people: int) -> list[Person]:
    return [Person(scenario.script(seed, number)) for number in range(n_people)]


async def drive(
    target: Target,
    scenario: Scenario,
    load: Load,
    people: Sequence[Person],
    *,
    seed: str,
    on_answer: Callable[[Request], None] = lambda request: None,
    clock: Clock = time.perf_counter,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """All people to their end; one whose turn fails says no more. What goes wrong is in the requests' `error`.

    In the open loop people come at times of a Poisson process, and each one's later turns follow the answers.
    """
    async with connect(target) as session:

        async def turn(person: Person) -> bool:
            on_answer(await _take_turn(session, target, scenario, person, clock))
            return person.has_more_to_say

        if isinstance(load, ClosedLoad):
            await answer_in_turn(people, load.streams, turn)
        else:
            await _let_come(people, arrivals(load.rate_per_s, seed), turn, clock, sleep)


async def answer_in_turn(people: Sequence[P], streams: int, turn: Callable[[P], Awaitable[bool]]) -> None:
    """Until nobody waits: whoever is being answered in one stream comes back there.

    Between two turns of one person all others who wait have theirs. `turn` says whether there is more to come.
    """
    waiting: asyncio.Queue[P] = asyncio.Queue()
    for person in people:
        waiting.put_nowait(person)

    async def stream() -> None:
        while not waiting.empty():
            person = waiting.get_nowait()
            if await turn(person):
                waiting.put_nowait(person)

    async with asyncio.TaskGroup() as group:
        for _ in range(streams):
            group.create_task(stream())


def arrivals(rate_per_s: float, seed: str) -> Iterator[float]:
    """Seconds from the start, without end; a function of rate and seed alone."""
    rng = random.Random(f"{seed}/arrivals")
    return accumulate(rng.expovariate(rate_per_s) for _ in repeat(None))


async def _let_come(people: Sequence[Person], times_s: Iterator[float], turn: Turn, clock: Clock, sleep: Sleep) -> None:
    async def whole_script(person: Person) -> None:
        while await turn(person):
            pass

    start_s = clock()
    async with asyncio.TaskGroup() as group:
        for person, time_s in zip(people, times_s, strict=False):
            person.due_s = start_s + time_s
            await sleep(max(person.due_s - clock(), 0.0))
            group.create_task(whole_script(person))


async def _take_turn(
    session: aiohttp.ClientSession, target: Target, scenario: Scenario, person: Person, clock: Clock
) -> Request:
    person.messages.append({"role": "user", "content": person.script.says[len(person.turns)]})
    body = scenario.body(target, person.messages)
    request = Request(sent_s=clock(), due_s=None if person.turns else person.due_s)
    await send(session, scenario.path, body, request, timeout_s=scenario.timeout_s, clock=clock)
    if request.error is None:
        wrong = unfinished(request) if scenario.ends_freely else shortfall(request, scenario.max_tokens)
        if wrong is not None:
            request.fail("wrong_length", wrong)
    person.messages.append({"role": "assistant", "content": request.answer})
    person.turns.append(request)
    return request


def unfinished(request: Request) -> str | None:
    """Why a stream that was free to end anywhere has not ended as an answer does."""
    if request.finish_reason is None or not request.chunk_s:
        return f"{len(request.chunk_s)} chunks of text, finish_reason {request.finish_reason}"
    return None
