"""Admission: the rule as a state machine, then the waiting."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gguf_server.admission import Admission, Turnstile
from gguf_server.errors import QueueFull
from gguf_server.turnstile import Visitor


class TurnstileMachine(RuleBasedStateMachine):
    """Against a model that is two plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.turnstile: Turnstile[int] = Turnstile(max_running=2, max_queued=3)
        self.max_running, self.max_queued = 2, 3
        self.inside = 0
        self.waiting: deque[int] = deque()
        self.next_ticket = 0

    @rule()
    def arrive(self) -> None:
        if self.turnstile.can_enter():
            assert self.inside < self.max_running
            assert not self.waiting
            self.turnstile.enter()
            self.inside += 1
        elif self.turnstile.can_queue():
            assert len(self.waiting) < self.max_queued
            self.turnstile.queue(self.next_ticket)
            self.waiting.append(self.next_ticket)
            self.next_ticket += 1
        else:
            assert len(self.waiting) >= self.max_queued
            assert self.inside >= self.max_running

    @precondition(lambda self: self.inside > 0)
    @rule()
    def leave(self) -> None:
        called = self.turnstile.leave()
        self.inside -= 1
        if self.waiting and self.inside < self.max_running:
            assert called == self.waiting.popleft()
            self.inside += 1
        else:
            assert called is None

    @rule(max_running=st.integers(1, 4), max_queued=st.integers(0, 4))
    def resize(self, max_running: int, max_queued: int) -> None:
        self.max_running, self.max_queued = max_running, max_queued
        self.turnstile.max_running, self.turnstile.max_queued = max_running, max_queued
        while self.waiting and self.inside < max_running:
            assert self.turnstile.call() == self.waiting.popleft()
            self.inside += 1
        assert self.turnstile.call() is None

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(list(self.waiting)))
        assert self.turnstile.give_up(ticket)
        assert not self.turnstile.give_up(ticket)
        self.waiting.remove(ticket)

    @invariant()
    def counts_agree(self) -> None:
        assert self.turnstile.n_running == self.inside
        assert self.turnstile.n_queued == len(self.waiting)


TestTurnstile = TurnstileMachine.TestCase


async def hold(admission: Admission, entered: asyncio.Event, leave: asyncio.Event) -> None:
    async with admission.permit():
        entered.set()
        await leave.wait()


async def test_the_queue_is_first_come_first_served() -> None:
    admission = Admission(max_concurrent=1, max_queue=8)
    order: list[int] = []

    async def visit(number: int) -> None:
        async with admission.permit():
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(visit(i) for i in range(6)))
    assert order == list(range(6))
    assert (admission.n_running, admission.n_queued) == (0, 0)


async def test_one_more_than_may_wait_is_refused_at_once_and_told_when_to_return() -> None:
    admission = Admission(max_concurrent=1, max_queue=1)
    entered, leave = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hold(admission, entered, leave))
        await entered.wait()
        waiting = tasks.create_task(hold(admission, asyncio.Event(), leave))
        while not admission.n_queued:
            await asyncio.sleep(0)
        with pytest.raises(QueueFull) as refused:
            async with admission.permit():
                pytest.fail("admitted")
        assert 1 <= int(refused.value.headers["Retry-After"]) <= 10
        assert not waiting.done()
        leave.set()


async def test_a_waiter_that_leaves_frees_its_place_in_the_queue() -> None:
    admission = Admission(max_concurrent=1, max_queue=1)
    entered, leave = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hold(admission, entered, leave))
        await entered.wait()
        waiting = tasks.create_task(hold(admission, asyncio.Event(), leave))
        while not admission.n_queued:
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert admission.n_queued == 0
        leave.set()
    assert admission.n_running == 0


async def test_a_waiter_cancelled_in_the_moment_of_its_turn_passes_the_turn_on() -> None:
    admission = Admission(max_concurrent=1, max_queue=4)
    entered, leave = asyncio.Event(), asyncio.Event()
    last_entered = asyncio.Event()
    first = asyncio.create_task(hold(admission, entered, leave))
    await entered.wait()
    second = asyncio.create_task(hold(admission, asyncio.Event(), leave))
    third = asyncio.create_task(hold(admission, last_entered, leave))
    while admission.n_queued < 2:
        await asyncio.sleep(0)
    leave.set()
    while not first.done():
        await asyncio.sleep(0)
    second.cancel()
    async with asyncio.timeout(5):
        await last_entered.wait()
        await asyncio.wait([second, third])
    assert (admission.n_running, admission.n_queued) == (0, 0)


async def test_a_waiter_cancelled_just_before_its_turn_gives_its_place_back_once() -> None:
    admission = Admission(max_concurrent=1, max_queue=4)
    entered, leave = asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(hold(admission, entered, leave))
    await entered.wait()
    second = asyncio.create_task(hold(admission, asyncio.Event(), leave))
    while not admission.n_queued:
        await asyncio.sleep(0)
    leave.set()  # the first one's step comes before that in which the second learns of its end
    second.cancel()
    await asyncio.wait([first, second])
    assert (admission.n_running, admission.n_queued) == (0, 0)


async def visit(admission: Admission, visitor: Visitor, inside: list[str], leave: asyncio.Event) -> None:
    async with admission.permit(visitor):
        inside.append(visitor.key)
        await leave.wait()


async def test_the_place_in_a_full_queue_goes_to_a_key_that_waits_less() -> None:
    admission = Admission(max_concurrent=1, max_queue=2)
    inside: list[str] = []
    leave = asyncio.Event()
    jobs = [asyncio.create_task(visit(admission, Visitor("batch"), inside, leave)) for _ in range(3)]
    while admission.n_queued < 2:
        await asyncio.sleep(0)
    ward = asyncio.create_task(visit(admission, Visitor("ward"), inside, leave))
    await asyncio.wait([jobs[2]])
    assert isinstance(jobs[2].exception(), QueueFull)
    assert (admission.n_running, admission.n_queued) == (1, 2)
    leave.set()
    await asyncio.wait([*jobs, ward])
    assert sorted(inside) == ["batch", "batch", "ward"]
    assert (admission.n_running, admission.n_queued) == (0, 0)


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_a_waiter_cancelled_as_it_loses_its_place_takes_none_with_it(cancelled_first: bool) -> None:
    admission = Admission(max_concurrent=1, max_queue=1)
    inside: list[str] = []
    leave = asyncio.Event()
    jobs = [asyncio.create_task(visit(admission, Visitor(key), inside, leave)) for key in ("batch", "batch")]
    while not admission.n_queued:
        await asyncio.sleep(0)
    urgent = visit(admission, Visitor("ward", rank=0), inside, leave)
    if cancelled_first:
        jobs[1].cancel()
        ward = asyncio.create_task(urgent)
    else:
        ward = asyncio.create_task(urgent)
        asyncio.get_running_loop().call_soon(jobs[1].cancel)
    await asyncio.wait([jobs[1]])
    assert jobs[1].cancelled() or isinstance(jobs[1].exception(), QueueFull)
    while not admission.n_queued:
        await asyncio.sleep(0)
    assert (admission.n_running, admission.n_queued) == (1, 1)
    leave.set()
    await asyncio.wait([*jobs, ward])
    assert inside == ["batch", "ward"]
    assert (admission.n_running, admission.n_queued) == (0, 0)


async def test_a_waiter_cancelled_just_before_its_turn_gives_no_place_away_twice() -> None:
    admission = Admission(max_concurrent=1, max_queue=4)
    leave = asyncio.Event()
    entered = [asyncio.Event() for _ in range(4)]

    async def cancels_the_second() -> None:
        async with admission.permit():
            entered[0].set()
            await leave.wait()
            tasks[1].cancel()

    tasks = [asyncio.create_task(cancels_the_second())]
    await entered[0].wait()
    stay = asyncio.Event()
    tasks += [asyncio.create_task(hold(admission, entered[number], stay)) for number in (1, 2, 3)]
    while admission.n_queued < 3:
        await asyncio.sleep(0)
    leave.set()
    await asyncio.wait(tasks[:2])
    await entered[2].wait()
    assert (admission.n_running, admission.n_queued) == (1, 1)
    stay.set()
    await asyncio.wait(tasks)
    assert (admission.n_running, admission.n_queued) == (0, 0)


async def test_more_places_are_given_to_those_who_wait_and_fewer_send_nobody_away() -> None:
    admission = Admission(max_concurrent=1, max_queue=4)
    leave = asyncio.Event()
    entered = [asyncio.Event() for _ in range(4)]
    async with asyncio.TaskGroup() as tasks:
        for event in entered:
            tasks.create_task(hold(admission, event, leave))
        await entered[0].wait()
        while admission.n_queued < 3:
            await asyncio.sleep(0)
        admission.resize(3, 0)
        await entered[2].wait()
        assert (admission.n_running, admission.n_queued) == (3, 1)
        admission.resize(2, 0)
        assert (admission.n_running, admission.n_queued) == (3, 1)
        leave.set()
    assert all(event.is_set() for event in entered)
    assert admission.n_running == 0
