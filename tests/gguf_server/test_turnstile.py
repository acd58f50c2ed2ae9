"""Whose turn it is: fair between keys, high before low, nobody forgotten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gguf_server.turnstile import PATIENCE, Turnstile, Visitor

HIGH, NORMAL, LOW = 0, 1, 2


def turns(turnstile: Turnstile[tuple[str, int]], visitors: Sequence[Visitor], n: int) -> list[Visitor]:
    """Who gets the next `n` turns where one place is inside and each of `visitors` always has one waiting.

    Each ticket is its key and a number, and uses what it was expected to.
    """
    by_key = {visitor.key: visitor for visitor in visitors}
    turnstile.enter(Visitor("before"))
    for visitor in visitors:
        for i in range(2):
            turnstile.queue((visitor.key, i), visitor)
    inside, order = Visitor("before"), []
    for i in range(n):
        ticket = turnstile.leave(inside)
        assert ticket is not None
        inside = by_key[ticket[0]]
        order.append(inside)
        turnstile.queue((inside.key, i + 2), inside)
    return order


class Queue(Turnstile[tuple[str, int]]):
    def __init__(self, max_running: int = 1, max_queued: int = 1000) -> None:
        super().__init__(max_running, max_queued)


def test_a_batch_job_does_not_keep_a_ward_waiting() -> None:
    turnstile = Queue()
    batch, ward = Visitor("batch", cost=500), Visitor("ward", cost=500)
    turnstile.enter(batch)
    for i in range(200):
        turnstile.queue(("batch", i), batch)
    turnstile.queue(("ward", 0), ward)
    first = turnstile.leave(batch)
    second = turnstile.leave(batch if first == ("batch", 0) else ward)
    assert ("ward", 0) in (first, second)


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=5))
def test_keys_that_always_want_more_use_as_many_tokens_each_whatever_one_request_costs(costs: list[int]) -> None:
    visitors = [Visitor(str(i), cost=cost) for i, cost in enumerate(costs)]
    used: Counter[str] = Counter()
    for visitor in turns(Queue(), visitors, 200):
        used[visitor.key] += visitor.cost
        least, most = min(used[v.key] for v in visitors), max(used.values())
        assert most - least <= 2 * max(costs)


def test_what_a_request_really_used_decides_about_the_next_turns() -> None:
    turnstile = Queue()
    a, b = Visitor("a", cost=100), Visitor("b", cost=100)
    turnstile.enter(a)
    for i in range(4):
        turnstile.queue(("a", i), a)
        turnstile.queue(("b", i), b)
    order, inside, used = [], a, 1000  # the first one of a was far longer than expected
    for _ in range(6):
        ticket = turnstile.leave(inside, used)
        assert ticket is not None
        order.append(ticket[0])
        inside, used = (a, 100) if ticket[0] == "a" else (b, 100)
    assert "".join(order) == "bbbbaa"


def test_idleness_is_not_saved_up() -> None:
    turnstile = Queue()
    busy, idle = Visitor("busy", cost=10), Visitor("idle", cost=10)
    turnstile.enter(busy)
    for i in range(100):
        turnstile.queue(("busy", i), busy)
    for _ in range(50):
        turnstile.leave(busy)
    for i in range(10):
        turnstile.queue(("idle", i), idle)
    order, inside = [], busy
    for _ in range(8):
        ticket = turnstile.leave(inside)
        assert ticket is not None
        order.append(ticket[0])
        inside = busy if ticket[0] == "busy" else idle
    assert Counter(order) == {"busy": 4, "idle": 4}


def test_a_higher_class_comes_first_and_a_lower_one_is_not_forgotten() -> None:
    visitors = [Visitor("h", HIGH), Visitor("n", NORMAL), Visitor("l", LOW)]
    order = "".join(visitor.key for visitor in turns(Queue(), visitors, 3 * (PATIENCE + 2)))
    assert order[: PATIENCE + 2] == "h" * PATIENCE + "nl"
    assert Counter(order)["h"] > 2 * (PATIENCE - 1)


@given(st.lists(st.sampled_from([HIGH, NORMAL, LOW]), min_size=1, max_size=6))
def test_no_class_waits_for_more_turns_than_the_rule_says(ranks: list[int]) -> None:
    visitors = [Visitor(str(i), rank) for i, rank in enumerate(ranks)]
    order = [visitor.rank for visitor in turns(Queue(), visitors, 60)]
    for rank in set(ranks):
        at = [-1, *(i for i, turn in enumerate(order) if turn == rank), len(order)]
        assert max(later - earlier for earlier, later in pairwise(at)) <= PATIENCE + len(set(ranks))


def test_a_key_at_its_own_limit_waits_and_lets_others_pass() -> None:
    turnstile = Queue(max_running=3)
    narrow, wide = Visitor("narrow", max_running=1), Visitor("wide")
    turnstile.enter(narrow)
    assert not turnstile.can_enter(narrow)
    turnstile.queue(("narrow", 0), narrow)
    assert turnstile.call() is None
    assert turnstile.can_enter(wide)
    turnstile.enter(wide)
    assert turnstile.leave(wide) is None
    assert turnstile.leave(narrow) == ("narrow", 0)


def test_one_key_cannot_fill_the_queue_against_others() -> None:
    turnstile = Queue(max_queued=4)
    batch, ward = Visitor("batch"), Visitor("ward")
    turnstile.enter(batch)
    for i in range(4):
        assert turnstile.queue(("batch", i), batch) is None
    assert not turnstile.can_queue(batch)
    assert turnstile.queue(("ward", 0), ward) == ("batch", 3)
    assert turnstile.queue(("ward", 1), ward) == ("batch", 2)
    assert not turnstile.can_queue(ward)
    assert not turnstile.can_queue(batch)
    assert turnstile.n_queued == 4


def test_a_place_in_the_queue_goes_to_the_higher_class_where_lines_are_as_long() -> None:
    turnstile = Queue(max_queued=2)
    low, high = Visitor("low", LOW), Visitor("high", HIGH)
    turnstile.enter(low)
    turnstile.queue(("other", 0), Visitor("other", LOW))
    turnstile.queue(("low", 0), low)
    assert not turnstile.can_queue(Visitor("third", LOW))
    assert turnstile.queue(("high", 0), high) in {("low", 0), ("other", 0)}
    assert not turnstile.can_queue(high)


class FairTurnstileMachine(RuleBasedStateMachine):
    """Several keys with classes and limits of their own; whatever happens, nobody is lost and no limit broken."""

    VISITORS = (
        Visitor("a", HIGH, None, 3),
        Visitor("b", NORMAL, 1, 5),
        Visitor("c", NORMAL, 2, 1),
        Visitor("d", LOW, None, 9),
    )

    def __init__(self) -> None:
        super().__init__()
        self.turnstile: Turnstile[int] = Turnstile(max_running=3, max_queued=5)
        self.inside: list[Visitor] = []
        self.waiting: dict[int, Visitor] = {}
        self.next_ticket = 0

    @rule(visitor=st.sampled_from(VISITORS))
    def arrive(self, visitor: Visitor) -> None:
        if self.turnstile.can_enter(visitor):
            self.turnstile.enter(visitor)
            self.inside.append(visitor)
        elif self.turnstile.can_queue(visitor):
            displaced = self.turnstile.queue(self.next_ticket, visitor)
            assert (displaced is not None) == (len(self.waiting) == 5)
            if displaced is not None:
                assert self.waiting.pop(displaced).key != visitor.key
                assert not self.turnstile.give_up(displaced)
            self.waiting[self.next_ticket] = visitor
            self.next_ticket += 1
        else:
            assert len(self.waiting) == 5

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), n_used=st.integers(0, 20) | st.none())
    def leave(self, data: st.DataObject, n_used: int | None) -> None:
        gone = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        called = self.turnstile.leave(gone, n_used)
        if called is not None:
            visitor = self.waiting.pop(called)
            assert all(ticket > called for ticket, other in self.waiting.items() if other.key == visitor.key)
            self.inside.append(visitor)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.turnstile.give_up(ticket)
        del self.waiting[ticket]

    @invariant()
    def nobody_waits_who_could_be_inside(self) -> None:
        running = Counter(visitor.key for visitor in self.inside)
        assert self.turnstile.n_running == len(self.inside) <= 3
        assert self.turnstile.n_queued == len(self.waiting)
        for visitor in self.VISITORS:
            assert visitor.max_running is None or running[visitor.key] <= visitor.max_running
        if len(self.inside) < 3:
            assert all(running[v.key] == v.max_running for v in self.waiting.values())


TestFairTurnstile = FairTurnstileMachine.TestCase
