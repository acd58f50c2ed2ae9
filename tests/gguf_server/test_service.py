"""The time a request has, and its end."""

from __future__ import annotations

import asyncio

import pytest

from gguf_server import config
from gguf_server.admission import Admission
from gguf_server.chain import EngineChain
from gguf_server.errors import Draining, TimedOut
from gguf_server.service import Service


def make_service(timeout_s: float) -> Service:
    settings = config.load(presets=["demo"], environ={}).services["demo"].model_copy(update={"timeout_s": timeout_s})
    return Service("demo", settings, EngineChain("demo", []), Admission(4, 4))


async def test_a_request_past_its_time_is_told_so() -> None:
    service = make_service(timeout_s=0.01)
    with pytest.raises(TimedOut):
        async with service.turn():
            await asyncio.Event().wait()
    assert service.idle.is_set()


async def test_cutting_off_ends_those_that_run_and_leaves_alone_those_that_are_ending() -> None:
    service = make_service(timeout_s=0.01)
    ending, may_end = asyncio.Event(), asyncio.Event()

    async def slow_to_end() -> None:
        async with service.turn():
            try:
                await asyncio.Event().wait()
            finally:
                ending.set()
                await may_end.wait()

    task = asyncio.create_task(slow_to_end())
    await ending.wait()
    service.draining = True
    service.cut_off()
    may_end.set()
    with pytest.raises(Draining):
        await task


async def test_a_draining_service_takes_nobody_in() -> None:
    service = make_service(timeout_s=5)
    service.draining = True
    with pytest.raises(Draining):
        async with service.turn():
            pytest.fail("taken in")
