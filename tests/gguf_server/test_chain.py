"""Which engine of a chain serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from backends.base import EngineState
from gguf_server.chain import EngineChain
from gguf_server.errors import NotReady
from tests.gguf_server.scripted_engine import ScriptedEngine


@asynccontextmanager
async def running(*engines: ScriptedEngine) -> AsyncIterator[EngineChain]:
    chain = EngineChain("test", engines)
    task = asyncio.create_task(chain.run())
    try:
        yield chain
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def serves(chain: EngineChain, name: str) -> bool:
    return chain.serving is not None and chain.serving.engine.name == name


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
