"""From a load to a run of a report."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.measuring.figures import LatencyTarget
from bench.measuring.load import Target
from bench.measuring.measure import measure
from bench.measuring.probes import Probes
from bench.records.record import ClosedLoad, Machine, OpenLoad, Predicted, Report, Run, TargetRecord, dump, parse
from bench.workloads.scenarios import short_chat, structured, thinking
from tests.bench.clocks import SetClock
from tests.bench.fake_server import FakeServer
from tests.bench.measuring.test_load import Ticks

Start = Callable[[FakeServer], Awaitable[Target]]
VISIT = {
    "case": 1,
    "urgency": "today",
    "complaint": "knee",
    "findings": [{"name": "pulse", "value": 84, "is_normal": True}],
    "next_step": "x-ray",
}


@pytest.fixture
def start(aiohttp_server: Callable[[web.Application], Awaitable[TestServer]]) -> Start:
    async def start_server(fake: FakeServer) -> Target:
        server = await aiohttp_server(fake.app())
        return Target("fake", str(server.make_url("/")), "tiny", extra_fields={"ignore_eos": True})

    return start_server


def written_and_read(run: Run) -> Run:
    """As a report keeps it."""
    report = Report(
        suite="test",
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        machine=Machine("Linux", "some", 2, 1 << 30),
        targets=(TargetRecord("fake", "http://127.0.0.1", "unknown"),),
        workloads=(replace(short_chat(), name=run.workload).record(seed="a"),),
        runs=(run,),
    )
    return parse(dump(report)).runs[0]


async def test_a_run_tells_what_it_was_and_how_it_went(start: Start) -> None:
    fake = FakeServer(steps_s=[(1.0, 0.5), (11.0, 9.5)])
    run = await measure(
        await start(fake),
        short_chat(max_tokens=4),
        ClosedLoad(1),
        Probes(os.getpid()),
        people=2,
        seed="a",
        repetition=3,
        latency=LatencyTarget(ttft_s=1.0, gap_s=1.0),
        predicted={"output_tok_per_s": Predicted(0.75, 0.1)},
        clock=Ticks(),
    )
    assert (run.target, run.workload, run.load, run.repetition) == ("fake", "short_chat", ClosedLoad(1), 3)
    assert (run.figures["requests"], run.figures["errors"], run.figures["goodput_share"]) == (2, 0, 1)
    assert (run.figures["output_tok"], run.figures["prompt_tok"], run.figures["cached_tok"]) == (8, 40, 6)
    assert (run.figures["ttft_s_p50"], run.figures["gap_s_p99"], run.figures["decode_share"]) == (1, 1, 0.9)
    assert run.figures["rss_peak_bytes"] > 0
    assert run.figures["client_cpu_share"] > 0
    assert run.gaps is not None
    assert sum(run.gaps.counts) == 6
    assert len(run.memory) >= 2
    assert run.predicted["output_tok_per_s"].value == 0.75
    assert written_and_read(run) == run


async def test_errors_are_counted_by_kind_and_say_nothing_of_texts(start: Start) -> None:
    run = await measure(await start(FakeServer(status=503)), short_chat(), ClosedLoad(2), people=3, seed="a")
    assert run.error_kinds == {"http_503": 3}
    assert (run.figures["errors"], run.figures["goodput_per_s"]) == (3, 0)
    assert "no room" not in str(written_and_read(run))


async def test_a_server_that_is_not_there_is_a_run_of_errors() -> None:
    run = await measure(Target("gone", "unix:nowhere.sock", "tiny"), short_chat(), ClosedLoad(1), people=2, seed="a")
    assert run.error_kinds == {"connection": 2}


async def test_the_open_loop_is_told_with_its_late_sends(start: Start) -> None:
    clock = SetClock(oversleeps_s=0.5)
    target = await start(FakeServer())
    run = await measure(target, short_chat(), OpenLoad(4.0), people=5, seed="a", clock=clock, sleep=clock.sleep)
    assert (run.load, run.figures["late_sends"]) == (OpenLoad(4.0), 5)


@pytest.mark.parametrize(
    ("says", "errors"),
    [
        (orjson.dumps(VISIT).decode(), {}),
        (orjson.dumps({**VISIT, "urgency": "now"}).decode(), {"wrong_answer": 1}),
        ("The visit's note:", {"wrong_answer": 1}),
    ],
)
async def test_structured_answers_are_validated(start: Start, says: str, errors: dict[str, int]) -> None:
    fake = FakeServer(says=tuple(says))
    run = await measure(await start(fake), structured(), ClosedLoad(1), people=1, seed="a")
    assert run.error_kinds == errors
    asked = fake.bodies[0]["response_format"]
    assert asked["json_schema"]["schema"]["required"] == list(VISIT)
    assert "ignore_eos" not in fake.bodies[0]


async def test_a_structured_answer_that_was_cut_off_is_an_error(start: Start) -> None:
    says = tuple(orjson.dumps(VISIT).decode())
    target = await start(FakeServer(says=says))
    run = await measure(target, structured(max_tokens=len(says)), ClosedLoad(1), people=1, seed="a")
    assert run.error_kinds == {"wrong_answer": 1}


@pytest.mark.parametrize("is_on", [True, False])
async def test_thinking_is_switched_for_the_template_and_its_end_is_told(start: Start, is_on: bool) -> None:
    fake = FakeServer(thoughts=("hm",) * 3 if is_on else (), says=("yes",))
    run = await measure(await start(fake), thinking(is_on), ClosedLoad(1), people=1, seed="a", clock=Ticks())
    assert fake.bodies[0]["chat_template_kwargs"] == {"enable_thinking": is_on}
    assert run.figures["ttft_s_p50"] == 1
    assert run.figures.get("content_ttft_s_p50") == (4 if is_on else None)


async def test_who_answered_behind_a_gateway_is_counted(start: Start) -> None:
    run = await measure(await start(FakeServer(engine="vllm")), short_chat(), ClosedLoad(1), people=2, seed="a")
    assert run.figures["engines"] == 1
