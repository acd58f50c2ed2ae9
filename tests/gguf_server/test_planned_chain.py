"""Chains whose plans have a say: what is not tried, what is tried all the same, and what came of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from backends.base import EngineState, FailureReason
from gguf_server.api.plan_status import describe_plan
from gguf_server.chain import EngineChain
from gguf_server.forecast import Forecast, Policy
from gguf_server.planning import GIB, EnginePlan, ExpectedSpeed, Held, MemoryNeed, Part, Room
from gguf_server.settings import FailoverSettings
from gguf_server.stream_speed import Sample
from tests.gguf_server.chains import serves, until
from tests.gguf_server.gateway import LIMIT_S, gateway
from tests.gguf_server.scripted_engine import ScriptedEngine

SOON = FailoverSettings(failback_after_s=0.001, failback_longest_s=0.02, stable_after_s=0.01)


class Memory:
    """Of a machine whose free memory a test sets."""

    def __init__(self, *, gpu_gib: float | None = None, host_gib: float = 16, held: Held | None = None) -> None:
        self.gpu_gib = gpu_gib
        self.host_gib = host_gib
        self.now_held = held or Held()
        self.n_readings = 0

    def room(self) -> Room:
        self.n_readings += 1
        return Room(None if self.gpu_gib is None else int(self.gpu_gib * GIB), int(self.host_gib * GIB))

    def held(self, pid: int) -> Held:
        return self.now_held


def needs(*, gpu_gib: float = 0, host_gib: float = 0, token_s: float = 0.02) -> EnginePlan:
    gpu_bytes, host_bytes = int(gpu_gib * GIB), int(host_gib * GIB)
    memory = MemoryNeed(
        gpu_bytes=gpu_bytes, host_bytes=host_bytes, error=0.1, parts=(Part("weights", gpu_bytes, host_bytes),)
    )
    return EnginePlan(memory=memory, speed=ExpectedSpeed(token_s=token_s, context_token_s=0.0, error=0.15))


def forecast(plan: EnginePlan, memory: Memory | None = None, policy: Policy = "enforce") -> Forecast:
    return Forecast(lambda _: plan, memory or Memory(), policy)


@asynccontextmanager
async def running(
    engines: list[ScriptedEngine], forecasts: list[Forecast], **options: Any
) -> AsyncIterator[EngineChain]:
    for engine in engines:
        engine.pid = 1
    chain = EngineChain("test", engines, forecasts=forecasts, **options)
    task = asyncio.create_task(chain.run())
    try:
        yield chain
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_an_engine_without_room_is_not_tried_and_the_next_takes_over() -> None:
    first, second = ScriptedEngine("a"), ScriptedEngine("b")
    forecasts = [forecast(needs(host_gib=40)), forecast(needs(host_gib=1))]
    async with running([first, second], forecasts) as chain:
        await until(lambda: serves(chain, "b"))
        link = chain.links[0]
        assert first.n_starts == 0
        assert link.state is EngineState.FAILED
        assert link.failure is not None
        assert link.failure.reason is FailureReason.OUT_OF_MEMORY
        assert "40.0 GiB" in link.failure.detail
        assert link.failures == {FailureReason.OUT_OF_MEMORY: 1}
        assert 'plan = "warn"' in link.failure.detail


async def test_it_is_tried_once_there_is_room_and_the_refusal_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gguf_server.failover._FIRST_RESTART_S", 0.001)
    first, second = ScriptedEngine("a"), ScriptedEngine("b")
    memory = Memory(host_gib=2)
    forecasts = [forecast(needs(host_gib=8), memory), forecast(needs())]
    async with running([first, second], forecasts, settings=SOON) as chain:
        await until(lambda: serves(chain, "b"))
        memory.host_gib = 16
        await until(lambda: serves(chain, "a"))
        assert chain.links[0].failure is None
        assert chain.links[0].state is EngineState.READY


@pytest.mark.parametrize(("policy", "n_warnings"), [("warn", 1), ("off", 0)])
async def test_a_plan_that_may_not_decide_stops_nobody(policy: Policy, n_warnings: int) -> None:
    engine = ScriptedEngine("a")
    async with running([engine], [forecast(needs(host_gib=40), policy=policy)]) as chain:
        await until(lambda: serves(chain, "a"))
        assert len(describe_plan(chain.links[0].forecast)["warnings"]) == n_warnings


async def test_a_plan_that_cannot_be_made_stops_nobody() -> None:
    def broken(_: Room) -> EnginePlan:
        raise ZeroDivisionError("a file that nobody thought of")

    engine = ScriptedEngine("a")
    async with running([engine], [Forecast(broken, Memory())]) as chain:
        await until(lambda: serves(chain, "a"))
        told = describe_plan(chain.links[0].forecast)
        assert told["gaps"] == ["no plan could be made: ZeroDivisionError"]
        assert told["memory"]["predicted_bytes"] is None


async def test_a_speed_that_cannot_be_measured_leaves_the_rest_of_the_plan() -> None:
    def broken(_: EnginePlan) -> EnginePlan:
        raise OSError("no threads left")

    of = forecast(replace(needs(host_gib=1), speed=None, later=broken))
    async with running([ScriptedEngine("a")], [of]):
        await until(lambda: of.plan.gaps == ("no plan could be made: OSError",))
        assert of.plan.memory is not None
        assert of.plan.later is None


async def test_predicted_and_measured_memory_stand_side_by_side() -> None:
    held = Held(gpu_bytes=8 * GIB, host_bytes=GIB)
    of = forecast(needs(gpu_gib=9, host_gib=0.5), Memory(gpu_gib=11, held=held))
    async with running([ScriptedEngine("a")], [of]) as chain:
        await until(lambda: serves(chain, "a"))
        memory = describe_plan(of)["memory"]
        assert (memory["device"], memory["predicted_bytes"], memory["measured_bytes"]) == ("gpu", 9 * GIB, 8 * GIB)
        assert memory["host"] == {"predicted_bytes": GIB // 2, "measured_bytes": GIB}
        assert memory["free_before"]["gpu_bytes"] == 11 * GIB
        assert memory["parts"] == [{"name": "weights", "gpu_bytes": 9 * GIB, "host_bytes": GIB // 2}]
        assert json.dumps(describe_plan(of))


async def test_an_engine_that_holds_nothing_of_its_card_is_told_of_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    held = Held(gpu_bytes=200 << 20, host_bytes=9 * GIB)
    of = forecast(needs(gpu_gib=9), Memory(gpu_gib=11, held=held))
    async with running([ScriptedEngine("a")], [of]) as chain:
        await until(lambda: serves(chain, "a"))
        assert of.is_off_the_card
        assert "it computes on the processor" in capsys.readouterr().out


async def test_speed_under_half_of_the_plan_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    of = forecast(needs(token_s=0.01))
    async with running([ScriptedEngine("a")], [of]) as chain:
        await until(lambda: serves(chain, "a"))
        assert chain.serving is not None
        for rate in (30.0, 31.0, 29.0, 28.0):
            chain.serving._on_sample(Sample(rate, 50))
        told = describe_plan(of)["decode_tokens_per_s"]
        assert (told["predicted"], told["measured"], told["streams"]) == (100.0, 29.5, 4)
        assert told["is_slow"]
        assert capsys.readouterr().out.count("engine is not as planned") == 1
        for _ in range(16):
            chain.serving._on_sample(Sample(90.0, 50))
        assert not describe_plan(of)["decode_tokens_per_s"]["is_slow"]
        assert describe_plan(of)["warnings"] == []


def on_card(name: str) -> ScriptedEngine:
    engine = ScriptedEngine(name)
    engine.device = "cuda"
    return engine


def card() -> list[dict[str, Any]]:
    return [{"name": "card", "memory_used_bytes": GIB, "memory_total_bytes": 12 * GIB}]


@pytest.mark.parametrize(("gpu_gib", "n_starts"), [(14, 0), (10, 1)])
async def test_nobody_makes_room_for_an_engine_that_would_not_fit_in_it(
    gpu_gib: float, n_starts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for 3 GiB now, and for 11 once the one that serves has given its 8 back."""
    monkeypatch.setattr("gguf_server.failover._SWAP_IDLE_S", 0.0)
    monkeypatch.setattr("gguf_server.failover._FIRST_RESTART_S", 0.001)
    monkeypatch.setattr("gguf_server.failover._LONGEST_RESTART_S", 0.01)
    first, second = on_card("a"), on_card("b")
    memory = Memory(gpu_gib=3)
    plans = [
        forecast(needs(gpu_gib=gpu_gib), memory),
        forecast(needs(gpu_gib=2), Memory(gpu_gib=11, held=Held(gpu_bytes=8 * GIB, host_bytes=0))),
    ]
    async with running([first, second], plans, settings=SOON, read_cards=card) as chain:
        await until(lambda: serves(chain, "b") or serves(chain, "a"))
        if n_starts:
            second_end = second.stop

            async def stop() -> None:
                await second_end()
                memory.gpu_gib = 11

            second.stop = stop  # type: ignore[method-assign]
            await until(lambda: serves(chain, "a"))
        else:
            await until(lambda: memory.n_readings >= 3)
            assert serves(chain, "b")
        assert (first.n_starts, second.n_starts) == (n_starts, 1)


async def test_streams_through_the_gateway_are_measured_and_shown() -> None:
    async with gateway(("--answer-words", "40", "--token-s", "0.002")) as gw:
        await gw.until_up("a")
        gw.chain.links[0].forecast.plan = needs(token_s=1e-9)
        async with asyncio.timeout(LIMIT_S):
            while gw.chain.links[0].forecast.speed.n_streams < 3:  # one may meet a machine that is busy elsewhere
                assert (await gw.ask(stream=True)).is_done
        await gw.ask()
        _, status = await gw.get("/status")
        told = status["engines"][0]["plan"]["decode_tokens_per_s"]
        assert told["streams"] == 3
        assert told["measured"] > 0
        assert told["context_tokens"] == 1 + 40 // 2
        assert told["is_slow"]
        assert "tokens/s to one client alone" in status["engines"][0]["plan"]["warnings"][0]
        async with gw.session.get(gw.url + "/metrics") as response:
            exposition = await response.text()
    assert 'gguf_engine_not_as_planned{device="cpu",engine="0:a",kind="vllm",service="fake"} 1.0' in exposition
    assert "gguf_engine_decode_tokens_per_second{" in exposition
    assert "gguf_engine_planned_decode_tokens_per_second{" in exposition


async def test_streams_in_company_are_not_measured() -> None:
    async with gateway(("--answer-words", "40", "--token-s", "0.001")) as gw:
        await gw.until_up("a")
        replies = await asyncio.gather(*(gw.ask(stream=True) for _ in range(2)))
        assert all(reply.is_done for reply in replies)
        assert gw.chain.links[0].forecast.speed.n_streams == 0


def fake_forecast(token_s: float) -> Forecast:
    return forecast(needs(host_gib=0.01, token_s=token_s))


async def test_an_engine_with_a_planned_speed_is_tried_out_before_anybody_asks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with gateway(("--answer-words", "40", "--token-s", "0.002"), forecasts=[fake_forecast(1e-9)]) as gw:
        await gw.until(lambda: gw.link("a").forecast.speed.n_streams == 3)
        assert "engine is not as planned" in capsys.readouterr().out
        assert gw.link("a").serving.idle_since is not None
        assert gw.service.totals.n_requests == 0


async def test_a_trial_that_fails_is_left_to_whoever_needs_the_engine() -> None:
    async with running([ScriptedEngine("a")], [forecast(needs())]) as chain:  # whose endpoint leads nowhere
        await until(lambda: serves(chain, "a"))
        serving = chain.serving
        assert serving is not None
        await until(lambda: serving.idle_since not in (None, serving.up_since))
        assert (serving.is_suspect, serving.n_failures) == (False, 0)
