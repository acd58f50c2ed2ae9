"""How one notices that an engine does not do its work any more, without processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from backends.base import EngineFailure, FailureReason
from gguf_server.engine_client import EngineError
from gguf_server.serving import Hang, Serving
from gguf_server.settings import FailoverSettings
from tests.gguf_server.scripted_engine import ScriptedEngine

SOON = FailoverSettings(stall_s=0.02, probe_every_s=0.02, probe_timeout_s=0.02, max_failures=3)
RARELY = FailoverSettings(stall_s=1000, probe_every_s=1000, probe_timeout_s=0.02, max_failures=3)


class ScriptedClient:
    """Answers probes as it is told; `n_probes` counts them."""

    def __init__(self) -> None:
        self.n_probes = 0
        self.n_steps = 0.0
        self.token: Exception | float = 0.0
        self.steps_per_look = 0.0

    async def one_token(self, _request_id: str) -> None:
        self.n_probes += 1
        if isinstance(self.token, Exception):
            raise self.token
        await asyncio.sleep(self.token)

    async def steps(self) -> tuple[float, ...]:
        self.n_steps += self.steps_per_look
        return (7.0, self.n_steps)


@asynccontextmanager
async def watched(
    rules: FailoverSettings, *, has_alternative: bool = False
) -> AsyncIterator[tuple[Serving, ScriptedClient, asyncio.Task[EngineFailure]]]:
    engine, client = ScriptedEngine("a"), ScriptedClient()
    await engine.start()
    serving = Serving(engine, client, has_alternative=lambda: has_alternative)  # type: ignore[arg-type]
    watch = asyncio.create_task(serving.watch(rules))
    try:
        yield serving, client, watch
    finally:
        watch.cancel()
        await asyncio.wait([watch])


async def verdict(watch: asyncio.Task[EngineFailure]) -> EngineFailure:
    async with asyncio.timeout(5):
        return await watch


async def probed(client: ScriptedClient, n: int) -> None:
    async with asyncio.timeout(5):
        while client.n_probes < n:
            await asyncio.sleep(0.001)


async def test_an_idle_engine_is_asked_for_a_token_now_and_then() -> None:
    async with watched(SOON) as (_, client, watch):
        await probed(client, 3)
        assert not watch.done()


async def test_its_own_death_is_the_verdict() -> None:
    async with watched(RARELY) as (serving, _, watch):
        serving.engine.fail()  # type: ignore[attr-defined]
        assert (await verdict(watch)).reason is FailureReason.CRASHED


async def test_no_token_and_no_step_is_a_hang() -> None:
    async with watched(SOON) as (_, client, watch):
        client.token = 1000.0
        failure = await verdict(watch)
        assert isinstance(failure, Hang)
        assert failure.reason is FailureReason.UNHEALTHY


async def test_no_token_but_steps_is_a_long_prompt() -> None:
    async with watched(SOON) as (serving, client, watch):
        client.token, client.steps_per_look = 1000.0, 1.0
        async with serving.use():
            await probed(client, 3)
        assert not watch.done()


async def test_an_engine_that_speaks_to_somebody_is_not_asked() -> None:
    async with watched(SOON.model_copy(update={"stall_s": 0.2})) as (serving, client, _), serving.use() as use:
        before = client.n_probes
        for _ in range(60):
            use.heard()
            await asyncio.sleep(0.005)
        assert client.n_probes == before


async def test_a_failed_request_has_it_looked_at_at_once() -> None:
    async with watched(RARELY) as (serving, client, watch):
        serving.failed()
        assert serving.is_suspect
        await probed(client, 1)
        await asyncio.sleep(0)
        assert not watch.done()
        assert serving.n_failures == 1


async def test_a_token_clears_the_suspicion_and_an_answer_the_count() -> None:
    async with watched(RARELY) as (serving, client, _):
        serving.failed()
        async with asyncio.timeout(5):
            while serving.is_suspect:
                await asyncio.sleep(0.001)
        serving.succeeded()
        assert serving.n_failures == 0
        assert client.n_probes == 1


async def test_one_that_cannot_answer_is_given_up() -> None:
    async with watched(RARELY) as (serving, client, watch):
        client.token = EngineError("the engine answered 500")
        serving.failed()
        failure = await verdict(watch)
        assert not isinstance(failure, Hang)
        assert "500" in failure.detail


async def test_a_request_that_is_cut_ends_with_an_error_of_its_engine() -> None:
    async with watched(RARELY) as (serving, _, _watch):
        asyncio.get_running_loop().call_later(0.01, serving.give_up)
        with pytest.raises(EngineError, match="was given up"):
            async with serving.use():
                await asyncio.sleep(10)
        assert not serving.uses
        assert serving.idle_since is not None


async def test_a_timeout_of_somebody_else_stays_a_timeout() -> None:
    async with watched(RARELY) as (serving, _, _watch):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), serving.use():
                await asyncio.sleep(10)


@pytest.mark.parametrize(
    ("has_alternative", "reads_slowly", "ending"),
    [(True, False, "cut"), (False, False, "left"), (True, True, "left")],
)
async def test_a_forgotten_request_is_taken_away_where_another_engine_is_up(
    has_alternative: bool, reads_slowly: bool, ending: str
) -> None:
    async with watched(SOON, has_alternative=has_alternative) as (serving, _, _watch):
        talking = True

        async def forgotten() -> str:
            try:
                async with serving.use() as use:
                    use.heard()
                    if not reads_slowly:
                        use.waits()
                    while talking:
                        await asyncio.sleep(0.001)
            except EngineError:
                return "cut"
            return "left"

        waiting = asyncio.create_task(forgotten())
        async with serving.use() as other:
            for _ in range(100):
                other.heard()
                await asyncio.sleep(0.001)
        talking = False
        assert await waiting == ending
