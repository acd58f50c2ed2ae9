from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.measuring.load import Target, Workload
from bench.measuring.result import LoadResult
from bench.peers import Setting, commands
from bench.servers.peer_builds import PeerBuilds
from bench.side_by_side import Plan, compare, parse_arguments, parse_target, report, table
from tests.bench.fake_server import FakeServer

Serve = Callable[[web.Application], Awaitable[TestServer]]
RESULT = LoadResult(2, 8, 8, 1.0, 8.0, 0.5, 0.6, 0.01, 0.02, 40, 0, ())


async def test_targets_get_the_same_prompts_and_no_prompt_twice(aiohttp_server: Serve) -> None:
    fakes = {"a": FakeServer(), "b": FakeServer()}
    targets = []
    for name, fake in fakes.items():
        targets.append(Target(name, str((await aiohttp_server(fake.app())).make_url("/")), "tiny", key="secret"))
    workload = Workload(streams=1, max_tokens=2, n_prompt=20)
    plan = Plan(tuple(targets), streams=(1, 2), repeat=2, workload=workload)
    results = await compare(plan)
    assert list(results) == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    assert [len(runs) for runs in results.values()] == [2] * 4
    prompts = {name: sorted(body["prompt"] for body in fake.bodies) for name, fake in fakes.items()}
    assert prompts["a"] == prompts["b"]
    assert len(set(prompts["a"])) == len(prompts["a"]) == 1 + 2 * 2 + 2 * 4
    assert b"secret" not in orjson.dumps(report(plan, results))


async def test_a_target_that_fails_its_warm_up_ends_the_run(aiohttp_server: Serve) -> None:
    server = await aiohttp_server(FakeServer(status=503).app())
    plan = Plan((Target("a", str(server.make_url("/")), "tiny"),), (1,), 1, Workload(streams=1))
    with pytest.raises(RuntimeError, match="a failed its warm-up: HTTP 503"):
        await compare(plan)


def test_a_ratio_is_the_median_over_repetitions_to_the_first_target() -> None:
    speeds = {"a": (10.0, 20.0, 40.0), "b": (20.0, 30.0, 40.0)}
    results = {
        (4, name): [replace(RESULT, tokens_per_s=speed) for speed in of_target] for name, of_target in speeds.items()
    }
    first, second = table(results).splitlines()[2:]
    assert first.startswith("| 4 | a | 20.0 (10.0–40.0) | 1.00 | 0.50 | 1.00 |")
    assert second.startswith("| 4 | b | 30.0 (20.0–40.0) | 1.50 |")


def test_a_target_is_written_as_name_url_and_options() -> None:
    target = parse_target("x=http://127.0.0.1:1/v1,model=m,key=k=1,eos=bias:0+2")
    assert (target.name, target.url, target.model, target.key) == ("x", "http://127.0.0.1:1/v1", "m", "k=1")
    assert target.extra_fields == {"logit_bias": {"0": -100, "2": -100}}
    assert parse_target("x=unix:run/x.sock").extra_fields == {"ignore_eos": True}


@pytest.mark.parametrize(
    "text", ["http://host", "x=host:80", "x=http://h,eos=bias:", "x=http://h,oops=1", "x=http://h,eos"]
)
def test_a_target_written_otherwise_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"NAME=URL|eos is"):
        parse_target(text)


def test_the_printed_commands_start_every_peer_alike_and_can_be_parsed() -> None:
    setting = Setting(PeerBuilds(Path("work")), Path("m.gguf"), n_parallel=16, threads=2, n_ctx_seq=512)
    lines = commands(setting, "0+2+4").replace("\\\n", "").splitlines()
    assert "--threads 2 --threads-batch 2 --parallel 16 --ctx-size 8192" in lines[0]
    assert "--n_threads 2 --n_threads_batch 2 --n_ctx 512 --interrupt_requests false" in lines[1]
    plan, out = parse_arguments(lines[2].removeprefix("python -m bench.side_by_side").split())
    assert (plan.streams, plan.repeat, out) == ((1, 4, 8, 16), 3, Path("compare.json"))
    assert [target.name for target in plan.targets] == ["llama-server", "llama_cpp.server"]
