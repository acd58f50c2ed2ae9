"""What a chain does next, as a function."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gguf_server.failover import (
    ANY_CARD,
    Decision,
    LinkView,
    Phase,
    Rules,
    decide,
    failback_at,
    restart_at,
)

DOWN = LinkView()
UP = LinkView(Phase.UP, idle_since=0.0)
BUSY = LinkView(Phase.UP)
STARTING = LinkView(Phase.STARTING)
ENDING = LinkView(Phase.ENDING)
COLD = Rules()
WARM = Rules(warm_standby=True)
LATER = 10_000.0


def failed(n: int, at: float, **more: object) -> LinkView:
    return LinkView(n_failures=n, failed_at=at, **more)  # type: ignore[arg-type]


def on(card: int, link: LinkView) -> LinkView:
    return replace(link, card=card)


def test_the_first_is_started_first() -> None:
    assert decide([DOWN, DOWN, DOWN], COLD, now=0.0).start == (0,)


def test_nothing_else_is_started_while_one_is_starting() -> None:
    decision = decide([STARTING, DOWN], COLD, now=0.0)
    assert decision.start == ()
    assert not decision.is_exhausted


def test_the_next_is_started_when_the_first_has_failed() -> None:
    assert decide([failed(1, 0.0), DOWN], COLD, now=0.0).start == (1,)


def test_the_one_behind_the_dead_goes_before_those_in_front() -> None:
    assert decide([DOWN, failed(1, 0.0), DOWN], COLD, now=0.0, first=2).start == (2,)


def test_all_failed_is_exhausted_until_the_first_pause_is_over() -> None:
    links = [failed(3, 100.0), failed(1, 100.5)]
    decision = decide(links, COLD, now=101.0)
    assert decision == Decision(None, wake_at=101.5, is_exhausted=True)
    assert decide(links, COLD, now=101.5).start == (1,)


def test_pauses_double_up_to_a_minute() -> None:
    assert [restart_at(failed(n, 0.0)) for n in (1, 2, 3, 7, 8, 400)] == [1, 2, 4, 60, 60, 60]
    assert [failback_at(failed(n, 0.0), COLD, swap=False) for n in (1, 2, 7, 400)] == [30, 60, 1800, 1800]
    assert [failback_at(failed(n, 0.0), COLD, swap=True) for n in (1, 2)] == [300, 600]


def test_of_those_up_the_first_serves() -> None:
    assert decide([DOWN, UP, UP], COLD, now=0.0).serve == 1


def test_with_a_cold_standby_the_others_stay_down() -> None:
    assert decide([BUSY, DOWN, DOWN], COLD, now=LATER) == Decision(0)


def test_a_warm_standby_is_started_beside_the_one_that_serves_or_loads() -> None:
    assert decide([BUSY, DOWN, DOWN], WARM, now=0.0).start == (1,)
    assert decide([DOWN, DOWN, DOWN], WARM, now=0.0).start == (0, 1)
    assert decide([BUSY, STARTING, DOWN], WARM, now=0.0).start == ()
    assert decide([BUSY, UP, DOWN], WARM, now=LATER) == Decision(0)


def test_a_warm_standby_needs_no_card_in_use() -> None:
    links = [on(0, BUSY), on(0, DOWN), DOWN]
    assert decide(links, WARM, now=0.0).start == (2,)
    assert decide([on(0, BUSY), on(1, DOWN), DOWN], WARM, now=0.0).start == (1,)
    assert decide([on(0, BUSY), on(ANY_CARD, DOWN), DOWN], WARM, now=0.0).start == (2,)
    assert decide([on(0, DOWN), on(0, DOWN), DOWN], WARM, now=0.0).start == (0, 2)


def test_a_standby_that_will_not_load_makes_room_for_the_next_and_is_tried_again() -> None:
    links = [BUSY, failed(1, 0.0), DOWN]
    assert decide(links, WARM, now=1.0).start == (2,)
    alone = decide(links[:2], WARM, now=1.0)
    assert (alone.start, alone.wake_at) == ((), 30.0)
    assert decide(links[:2], WARM, now=30.0).start == (1,)


def test_the_next_engine_waits_for_the_card_of_the_one_that_ended() -> None:
    links = [on(0, ENDING), on(0, DOWN)]
    waiting = decide(links, COLD, now=0.0, first=1)
    assert waiting.start == ()
    assert not waiting.is_exhausted
    assert decide([on(0, failed(1, 0.0)), on(0, DOWN)], COLD, now=0.0, first=1).start == (1,)
    assert decide([on(0, ENDING), DOWN], COLD, now=0.0, first=1).start == (1,)


def test_the_primary_is_tried_again_in_the_background() -> None:
    links = [failed(1, 0.0), BUSY]
    assert decide(links, COLD, now=29.0) == Decision(1, wake_at=30.0)
    assert decide(links, COLD, now=30.0).start == (0,)
    assert decide(links, Rules(failback=False), now=LATER) == Decision(1)


def test_one_that_never_failed_is_tried_at_once() -> None:
    assert decide([failed(1, 0.0), DOWN, BUSY], COLD, now=1.0).start == (1,)


def test_on_the_same_card_it_is_tried_only_after_half_a_minute_of_silence() -> None:
    primary = on(0, failed(1, 0.0))
    busy, idle = on(0, BUSY), on(0, replace(UP, idle_since=400.0))
    assert decide([primary, busy], COLD, now=LATER) == Decision(1)
    assert decide([primary, idle], COLD, now=410.0) == Decision(1, wake_at=430.0)
    assert decide([primary, idle], COLD, now=430.0) == Decision(1, end=(1,), swap_to=0)
    assert decide([primary, on(0, ENDING)], COLD, now=431.0, first=0).start == ()
    assert decide([primary, on(0, DOWN)], COLD, now=432.0, first=0).start == (0,)


def test_nothing_makes_room_for_what_no_second_try_mends() -> None:
    hopeless = on(0, failed(1, 0.0, is_hopeless=True))
    assert decide([hopeless, on(0, UP)], COLD, now=LATER) == Decision(1)
    assert decide([failed(1, 0.0, is_hopeless=True), UP], COLD, now=LATER).start == (0,)


def test_the_stand_in_stays_until_the_primary_is_stable_and_nobody_uses_it() -> None:
    back = LinkView(Phase.UP, up_since=100.0)
    assert decide([back, UP], COLD, now=159.0) == Decision(0, wake_at=160.0)
    assert decide([back, UP], COLD, now=160.0) == Decision(0, end=(1,))
    assert decide([back, BUSY], COLD, now=160.0) == Decision(0)
    assert decide([back, UP], WARM, now=160.0) == Decision(0)


PHASES = st.sampled_from(Phase)
LINKS = st.lists(
    st.builds(
        LinkView,
        phase=PHASES,
        n_failures=st.integers(0, 5),
        failed_at=st.floats(0, 100),
        is_hopeless=st.booleans(),
        card=st.sampled_from([None, ANY_CARD, 0, 1]),
        up_since=st.floats(0, 100),
        idle_since=st.none() | st.floats(0, 100),
    ),
    min_size=1,
    max_size=4,
)
RULES = st.builds(Rules, warm_standby=st.booleans(), failback=st.booleans())


def share(one: LinkView, other: LinkView) -> bool:
    if one.card is None or other.card is None:
        return False
    return one.card == other.card or ANY_CARD in (one.card, other.card)


@given(LINKS, RULES, st.floats(0, 4000), st.integers(0, 3))
def test_any_decision_is_a_possible_one(links: list[LinkView], rules: Rules, now: float, first: int) -> None:
    decision = decide(links, rules, now=now, first=first)
    assert all(links[i].phase is Phase.DOWN for i in decision.start)
    assert all(links[i].phase is Phase.UP and links[i].idle_since is not None for i in decision.end)
    holders = [link for link in links if link.phase is not Phase.DOWN] + [links[i] for i in decision.start]
    for i in decision.start:
        assert sum(share(links[i], holder) for holder in holders) <= 1
    up = [i for i, link in enumerate(links) if link.phase is Phase.UP]
    assert decision.serve == (up[0] if up else None)
    assert decision.wake_at is None or decision.wake_at > now
    if not up and all(link.phase is Phase.DOWN for link in links):
        assert decision.start or decision.is_exhausted
        assert not decision.is_exhausted or decision.wake_at is not None


class ChainOfEngines(RuleBasedStateMachine):
    """Engines that load, die and end in any order, driven by the decisions alone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.first = 0
        self.chain_rules = WARM
        self.links = [on(0, DOWN), on(0, DOWN), DOWN]
        self.step()

    def step(self) -> None:
        decision = decide(self.links, self.chain_rules, now=self.now, first=self.first)
        if decision.swap_to is not None:
            self.first = decision.swap_to
        elif decision.serve is not None:
            self.first = (decision.serve + 1) % len(self.links)
        for i in decision.end:
            self.links[i] = replace(self.links[i], phase=Phase.ENDING)
        for i in decision.start:
            self.links[i] = replace(self.links[i], phase=Phase.STARTING)
        self.decision = decision

    def having(self, phase: Phase) -> list[int]:
        return [i for i, link in enumerate(self.links) if link.phase is phase]

    @rule(seconds=st.sampled_from([0.5, 5.0, 60.0, 3600.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.step()

    @precondition(lambda self: self.having(Phase.STARTING))
    @rule(data=st.data(), loads=st.booleans())
    def one_has_loaded_or_not(self, data: st.DataObject, loads: bool) -> None:
        i = data.draw(st.sampled_from(self.having(Phase.STARTING)))
        if loads:
            self.links[i] = replace(self.links[i], phase=Phase.UP, up_since=self.now, idle_since=self.now)
        else:
            self.fail(i, Phase.DOWN)
        self.step()

    @precondition(lambda self: self.having(Phase.UP))
    @rule(data=st.data())
    def one_dies(self, data: st.DataObject) -> None:
        self.fail(data.draw(st.sampled_from(self.having(Phase.UP))), Phase.ENDING)
        self.step()

    @precondition(lambda self: self.having(Phase.ENDING))
    @rule(data=st.data())
    def one_is_gone(self, data: st.DataObject) -> None:
        i = data.draw(st.sampled_from(self.having(Phase.ENDING)))
        self.links[i] = replace(self.links[i], phase=Phase.DOWN)
        self.step()

    def fail(self, i: int, phase: Phase) -> None:
        link = self.links[i]
        self.links[i] = replace(link, phase=phase, n_failures=link.n_failures + 1, failed_at=self.now)

    @invariant()
    def no_card_is_held_twice(self) -> None:
        assert sum(link.card == 0 and link.phase is not Phase.DOWN for link in self.links) <= 1

    @invariant()
    def somebody_serves_or_is_on_the_way_or_has_a_time(self) -> None:
        moving = self.having(Phase.STARTING) or self.having(Phase.ENDING)
        assert self.decision.serve is not None or moving or self.decision.wake_at is not None


TestChainOfEngines = ChainOfEngines.TestCase


@pytest.mark.parametrize("rules", [COLD, WARM])
def test_a_chain_of_one_is_started_again_and_again(rules: Rules) -> None:
    assert decide([failed(5, 0.0)], rules, now=15.0) == Decision(None, wake_at=16.0, is_exhausted=True)
    assert decide([failed(5, 0.0)], rules, now=16.0).start == (0,)
