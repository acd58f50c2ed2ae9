"""Which engine of a chain serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backends.base import EngineState, FailureReason
from gguf_server import chain as chain_module
from gguf_server import failover
from gguf_server.chain import EngineChain, NoneLeft
from gguf_server.errors import NotReady
from gguf_server.settings import FailoverSettings
from tests.gguf_server.chains import serves, until
from tests.gguf_server.scripted_engine import ScriptedEngine


@asynccontextmanager
async def running(*engines: ScriptedEngine, **options: Any) -> AsyncIterator[EngineChain]:
    chain = EngineChain("test", engines, **options)
    task = asyncio.create_task(chain.run())
    try:
        yield chain
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_the_first_that_starts_serves_and_the_failures_before_it_stay_visible() -> None:
    first, second, third = ScriptedEngine("a", n_bad_starts=9), ScriptedEngine("b"), ScriptedEngine("c")
    async with running(first, second, third) as chain:
        await until(lambda: serves(chain, "b"))
        assert first.failure is not None
        assert chain.links[0].failed_at is not None
        assert third.n_starts == 0
    assert second.state is EngineState.STOPPED


async def test_the_next_takes_over_when_the_serving_one_dies() -> None:
    first, second = ScriptedEngine("a"), ScriptedEngine("b")
    async with running(first, second) as chain:
        await until(lambda: serves(chain, "a"))
        first.fail()
        await until(lambda: serves(chain, "b"))
        second.fail()
        await until(lambda: serves(chain, "a"))


async def test_an_only_engine_is_started_again() -> None:
    engine = ScriptedEngine("a")
    async with running(engine) as chain:
        await until(lambda: serves(chain, "a"))
        engine.fail()
        await until(lambda: engine.n_starts == 2 and serves(chain, "a"))


async def test_without_any_engine_requests_are_told_to_come_back() -> None:
    chain = EngineChain("test", [ScriptedEngine("a")])
    with pytest.raises(NotReady, match="no engine could be started") as refused:
        chain.require()
    assert refused.value.headers["Retry-After"] == "10"


async def test_a_chain_that_failed_whole_is_tried_again() -> None:
    first, second = ScriptedEngine("a", n_bad_starts=1), ScriptedEngine("b", n_bad_starts=1)
    async with running(first, second) as chain:
        await until(lambda: serves(chain, "a"))
        assert (first.n_starts, second.n_starts) == (2, 1)


SOON = FailoverSettings(failback_after_s=0.001, failback_longest_s=0.02, stable_after_s=0.01)
GB = 10**9


class Card:
    """One card whose memory a test fills and empties."""

    def __init__(self) -> None:
        self.used_gb = 1.0

    def read(self) -> list[dict[str, Any]]:
        return [{"name": "card", "memory_used_bytes": int(self.used_gb * GB), "memory_total_bytes": 16 * GB}]


def on_card(name: str, **options: Any) -> ScriptedEngine:
    engine = ScriptedEngine(name, **options)
    engine.device = "cuda"
    return engine


async def test_a_warm_standby_is_up_beside_the_first_and_serves_in_its_place_at_once() -> None:
    first, second = ScriptedEngine("a"), ScriptedEngine("b")
    async with running(first, second, warm_standby=True) as chain:
        await until(lambda: serves(chain, "a") and second.state is EngineState.READY)
        assert second.n_starts == 1
        first.fail()
        await until(lambda: serves(chain, "b"))
        assert second.n_starts == 1


async def test_the_primary_comes_back_and_the_stand_in_goes_once_it_is_stable() -> None:
    first, second = ScriptedEngine("a"), ScriptedEngine("b")
    async with running(first, second, settings=SOON) as chain:
        await until(lambda: serves(chain, "a"))
        first.fail()
        await until(lambda: second.n_starts == 1)
        await until(lambda: serves(chain, "a") and second.state is EngineState.STOPPED)
        assert (first.n_starts, second.n_starts) == (2, 1)


async def test_the_stand_in_stays_while_somebody_uses_it() -> None:
    first, second = ScriptedEngine("a"), ScriptedEngine("b")
    async with running(first, second, settings=SOON) as chain:
        await until(lambda: serves(chain, "a"))
        first.fail()
        await until(lambda: serves(chain, "b"))
        serving = chain.serving
        assert serving is not None
        async with serving.use():
            await until(lambda: serves(chain, "a"))
            await asyncio.sleep(0.03)
            assert second.state is EngineState.READY
        await until(lambda: second.state is EngineState.STOPPED)


async def test_the_next_on_a_card_waits_for_its_memory() -> None:
    card = Card()
    first, second = on_card("a"), on_card("b")
    async with running(first, second, settings=SOON, read_cards=card.read) as chain:
        await until(lambda: serves(chain, "a"))
        card.used_gb = 14.0
        first.fail()
        await until(lambda: chain.serving is None)
        await asyncio.sleep(0.05)
        assert second.n_starts == 0
        card.used_gb = 1.0
        await until(lambda: serves(chain, "b"))


async def test_on_one_card_the_stand_in_makes_room_while_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "_SWAP_IDLE_S", 0.05)
    first, second = on_card("a"), on_card("b")
    async with running(first, second, settings=SOON, read_cards=Card().read) as chain:
        await until(lambda: serves(chain, "a"))
        first.fail()
        await until(lambda: serves(chain, "b"))
        serving = chain.serving
        assert serving is not None
        async with serving.use():
            await asyncio.sleep(0.1)
            assert first.n_starts == 1
        first.may_load.clear()
        await until(lambda: first.n_starts == 2)
        assert chain.serving is None
        assert chain.require() is None  # whoever comes now waits
        coming = asyncio.create_task(chain.acquire())
        first.may_load.set()
        assert (await coming).engine is first
        assert second.state is EngineState.STOPPED


async def test_a_stand_in_that_made_room_in_vain_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "_SWAP_IDLE_S", 0.01)
    first, second = on_card("a"), on_card("b")
    async with running(first, second, settings=SOON, read_cards=Card().read) as chain:
        await until(lambda: serves(chain, "a"))
        first.will_fail(reason=FailureReason.OUT_OF_MEMORY)
        first.fail()
        await until(lambda: second.n_starts == 2 and serves(chain, "b"))
        assert first.n_starts >= 2


async def test_all_that_can_be_asked_were_asked() -> None:
    first, second = ScriptedEngine("a"), ScriptedEngine("b", n_bad_starts=9)
    async with running(first, second, settings=SOON) as chain:
        await until(lambda: serves(chain, "a"))
        with pytest.raises(NoneLeft):
            await chain.acquire([first])
        first.fail()
        with pytest.raises(NoneLeft):
            async with asyncio.timeout(5):
                await chain.acquire([first])


async def test_an_engine_that_does_not_answer_is_condemned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_module, "_DYING_S", 0.01)
    first, second = ScriptedEngine("a"), ScriptedEngine("b")
    rules = FailoverSettings(probe_every_s=0.01, failback=False)
    async with running(first, second, settings=rules) as chain:  # its endpoint leads nowhere, so no probe is answered
        await until(lambda: chain.links[0].n_failures > 0)
        assert first.failure is not None
        assert first.failure.reason is FailureReason.UNHEALTHY
