"""What an operator asks of a chain: which engine serves, and that one is loaded again."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from backends.base import FailureReason
from gguf_server.chain import EngineChain
from gguf_server.errors import Conflict, NotFound
from gguf_server.failover import Decision, LinkView, Phase, Rules, decide
from gguf_server.settings import FailoverSettings
from tests.gguf_server.chains import serves, until
from tests.gguf_server.scripted_engine import ScriptedEngine
from tests.gguf_server.test_chain import running

DOWN = LinkView()
UP = LinkView(Phase.UP, idle_since=0.0)
BUSY = LinkView(Phase.UP)
COLD = Rules()
NEVER = FailoverSettings(failback=False)


def wanted(link: LinkView) -> LinkView:
    return replace(link, is_wanted=True)


def held(link: LinkView) -> LinkView:
    return replace(link, is_held=True)


def on(card: int, link: LinkView) -> LinkView:
    return replace(link, card=card)


def test_an_engine_that_is_wanted_is_started_at_once_whatever_the_pauses() -> None:
    failed = LinkView(n_failures=9, failed_at=0.0)
    assert decide([failed, BUSY], COLD, now=1.0).start == ()
    assert decide([wanted(failed), BUSY], COLD, now=1.0).start == (0,)
    assert decide([wanted(DOWN), BUSY], Rules(failback=False), now=1.0).start == (0,)


def test_what_is_in_the_way_of_a_wanted_one_is_held_and_ended_when_idle() -> None:
    links = [on(0, wanted(DOWN)), on(0, BUSY)]
    assert decide(links, COLD, now=1.0) == Decision(1, hold=(1,), swap_to=0)
    assert decide([on(0, wanted(DOWN)), on(0, held(BUSY))], COLD, now=1.0) == Decision(None)
    assert decide([on(0, wanted(DOWN)), on(0, held(UP))], COLD, now=1.0) == Decision(None, end=(1,))
    assert decide([on(0, wanted(DOWN)), on(0, DOWN)], COLD, now=1.0).start == (0,)


def test_nothing_else_is_started_while_the_only_one_up_is_held() -> None:
    assert decide([held(BUSY), DOWN], COLD, now=9e9) == Decision(None)
    assert decide([held(replace(UP, phase=Phase.ENDING)), DOWN], COLD, now=9e9) == Decision(None)


def test_a_held_engine_is_ended_beside_the_one_that_serves() -> None:
    assert decide([held(UP), BUSY], COLD, now=1.0) == Decision(1, end=(0,))
    assert decide([held(BUSY), BUSY], COLD, now=1.0) == Decision(1)


async def use(chain: EngineChain) -> asyncio.Event:
    """A request that is with the engine which serves, until the event is set."""
    done, began = asyncio.Event(), asyncio.Event()
    serving = await chain.acquire()

    async def hold() -> None:
        async with serving.use():
            began.set()
            await done.wait()

    chain.request = asyncio.create_task(hold())  # type: ignore[attr-defined]
    await began.wait()
    return done


async def test_an_engine_is_loaded_again_when_it_is_done_and_requests_wait_for_it() -> None:
    a, b = ScriptedEngine("a"), ScriptedEngine("b")
    async with running(a, b, settings=NEVER) as chain:
        await until(lambda: serves(chain, "a"))
        done = await use(chain)
        assert await chain.restart("a") == "it is loaded again once it has answered 1 requests"
        assert chain.require() is None
        waiting = asyncio.create_task(chain.acquire())
        assert "being ended" in await chain.restart("a")
        assert (a.n_starts, b.n_starts) == (1, 0)
        done.set()
        assert (await waiting).engine is a
        assert (a.n_starts, b.n_starts) == (2, 0)


async def test_where_another_is_up_it_answers_meanwhile() -> None:
    a, b = ScriptedEngine("a"), ScriptedEngine("b")
    async with running(a, b, warm_standby=True, settings=NEVER) as chain:
        await until(lambda: serves(chain, "a") and chain.links[1].serving is not None)
        done = await use(chain)
        await chain.restart("0:a")
        assert serves(chain, "b")
        done.set()
        await until(lambda: serves(chain, "a"))
        assert (a.n_starts, b.n_starts) == (2, 1)


async def test_what_cannot_be_restarted_says_why() -> None:
    a, b, c = ScriptedEngine("a"), ScriptedEngine("b"), ScriptedEngine("b")
    a.may_load.clear()
    async with running(a, b, c) as chain:
        await until(lambda: chain.is_loading)
        with pytest.raises(Conflict, match="is being loaded already"):
            await chain.restart("a")
        a.may_load.set()
        await until(lambda: serves(chain, "a"))
        with pytest.raises(Conflict, match="not loaded, and not needed"):
            await chain.restart("1:b")
        with pytest.raises(Conflict, match="say one of 1:b, 2:b"):
            await chain.restart("b")
        with pytest.raises(NotFound, match="there are 0:a, 1:b, 2:b"):
            await chain.restart("z")
    with pytest.raises(Conflict, match="being ended"):
        await chain.restart("a")


async def test_a_failed_engine_is_tried_again_at_once() -> None:
    a = ScriptedEngine("a", n_bad_starts=3)
    a.will_fail(reason=FailureReason.WEIGHTS_MISSING)
    async with running(a) as chain:
        await until(lambda: chain.is_exhausted)
        a._n_bad_starts = 0
        n_starts = a.n_starts
        assert await chain.restart("a") == "it was not loaded, and is tried again"
        await until(lambda: serves(chain, "a"))
        assert a.n_starts == n_starts + 1


async def test_another_engine_is_made_to_serve_and_the_order_comes_back() -> None:
    a, b = ScriptedEngine("a"), ScriptedEngine("b")
    async with running(a, b, settings=FailoverSettings(stable_after_s=0.001)) as chain:
        await until(lambda: serves(chain, "a"))
        await chain.switch("b")
        assert chain.pinned is chain.links[1]
        await until(lambda: serves(chain, "b"))
        await until(lambda: chain.links[0].serving is None)
        assert await chain.switch("b") == "it answers new requests"
        b.fail()
        await until(lambda: b.n_starts == 2 or serves(chain, "a"))
        await chain.switch(None)
        await until(lambda: serves(chain, "a"))
        assert chain.pinned is None


async def test_a_switch_on_one_card_waits_for_what_is_running() -> None:
    a, b = ScriptedEngine("a"), ScriptedEngine("b")
    for engine in (a, b):
        engine.device, engine.cuda_device = "cuda", 0
    async with running(a, b, settings=NEVER, read_cards=list) as chain:
        await until(lambda: serves(chain, "a"))
        done = await use(chain)
        await chain.switch("b")
        waiting = asyncio.create_task(chain.acquire())
        await until(lambda: chain.links[0].is_held)
        assert b.n_starts == 0
        assert chain.require() is None
        done.set()
        assert (await waiting).engine is b
        assert chain.links[0].serving is None


async def test_a_switch_to_an_engine_that_will_not_start_comes_back_to_the_other() -> None:
    a, b = ScriptedEngine("a"), ScriptedEngine("b", n_bad_starts=1)
    for engine in (a, b):
        engine.device, engine.cuda_device = "cuda", 0
    async with running(a, b, settings=NEVER, read_cards=list) as chain:
        await until(lambda: serves(chain, "a"))
        await chain.switch("b")
        await until(lambda: b.n_starts == 1 and serves(chain, "a"))
        assert a.n_starts == 2


async def test_rules_that_change_are_those_of_the_engine_that_serves() -> None:
    a = ScriptedEngine("a")
    async with running(a) as chain:
        await until(lambda: serves(chain, "a"))
        await chain.adopt(NEVER, warm_standby=True, plan="off")
        assert chain.serving is not None
        assert chain.serving.rules is NEVER
        assert chain.links[0].forecast.policy == "off"
