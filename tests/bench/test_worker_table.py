from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.measuring.load import Target
from bench.measuring.steps import Steps, decode_share, read_steps
from bench.servers.launch import Server, running
from bench.worker import batched_bench
from bench.worker.batched_bench import Shape, argv
from bench.worker.parts import PARTS, Turn
from bench.worker.report import LIMIT, TOTAL, Sample, lines, report, table
from bench.worker_table import Plan, parse_arguments, run
from tests.bench.fake_server import FakeServer

Serve = Callable[[web.Application], Awaitable[TestServer]]
HERE = Plan(("shared",), (), 2, "seed", Path("work"), Path("m.gguf"), 2, ("--n-batch", "256"))


async def target_of(fake: FakeServer, serve: Serve, name: str = "fake") -> Target:
    return Target(name, str((await serve(fake.app())).make_url("/")), "tiny", key="secret")


async def test_every_repetition_asks_every_target_the_same(aiohttp_server: Serve) -> None:
    fakes = {"a": FakeServer(), "b": FakeServer(steps_s=[(1.0, 1.0), (3.0, 2.9), (3.0, 2.9), (5.0, 4.8)])}
    targets = tuple([await target_of(fake, aiohttp_server, name) for name, fake in fakes.items()])
    samples: list[Sample] = []
    await run(replace(HERE, targets=targets), samples)
    assert [(sample.target, sample.repetition) for sample in samples] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    asked = {name: sorted(str(body["messages"]) for body in fake.bodies[1:]) for name, fake in fakes.items()}
    assert asked["a"] == asked["b"]
    assert len(set(asked["a"])) == len(asked["a"]) == 64
    [shared] = {body["messages"][0]["content"] for body in fakes["a"].bodies[1:]}
    assert len(shared.split()) > 800
    shares = [sample.figures["in llama_decode"] for sample in samples if sample.target == "b"]
    assert shares == pytest.approx([0.95] * 2)
    assert "in llama_decode" not in samples[0].figures
    assert b"secret" not in orjson.dumps(report(samples))


@pytest.mark.parametrize("part", ["conversation", "rewrite"])
async def test_parts_have_no_errors_with_a_server_that_has_none(part: str, aiohttp_server: Serve) -> None:
    target = await target_of(FakeServer(), aiohttp_server)
    for measure in PARTS[part].rows.values():
        figures = await measure(target, Turn("seed", 0, []))
        assert figures["errors"] == 0


async def test_a_target_that_does_not_answer_ends_the_run(aiohttp_server: Serve) -> None:
    fake = FakeServer()
    targets = (await target_of(fake, aiohttp_server), Target("gone", "unix:nowhere.sock", "m"))
    samples: list[Sample] = []
    with pytest.raises(RuntimeError, match="gone failed its warm-up"):
        await run(replace(HERE, targets=targets), samples)
    await run(replace(HERE, targets=targets[:1], repeat=1), samples)
    assert len(samples) == 1


async def test_sampled_streams_are_sampled(aiohttp_server: Serve) -> None:
    fake = FakeServer()
    await PARTS["sampled"].rows["1 streams"](await target_of(fake, aiohttp_server), Turn("seed", 0, []))
    assert {(body["temperature"], body["top_k"]) for body in fake.bodies} == {(0.8, 40)}


async def test_the_share_of_decode_is_of_the_time_between_two_looks(aiohttp_server: Serve) -> None:
    target = await target_of(FakeServer(steps_s=[(10.0, 9.0)]), aiohttp_server)
    before = await read_steps(target)
    assert before == Steps(10.0, 9.0)
    assert decode_share(before, Steps(14.0, 12.9)) == pytest.approx(3.9 / 4)
    assert decode_share(before, before) is None
    assert await read_steps(target) is None
    assert decode_share(None, before) is None


def test_both_servers_get_the_same_threads_sequences_and_context() -> None:
    server, worker = HERE.servers("conversation")
    assert "--threads 2 --threads-batch 2 --parallel 4 --ctx-size 8192" in " ".join(server.argv)
    assert "--threads 2 --n-parallel 4 --n-ctx 2048 --n-batch 256" in " ".join(worker.argv)
    assert server.target.extra_fields == worker.target.extra_fields == {"ignore_eos": True}
    names = [each.target.name for each in HERE.servers("rewrite")]
    assert names == ["worker", "worker with lookup", "llama-server"]


def test_a_ratio_is_the_median_over_repetitions_to_the_rows_first_target() -> None:
    speeds = {"a": (10.0, 20.0, 40.0), "b": (20.0, 30.0, 40.0)}
    samples = [
        Sample("p", "r", name, turn, {"tok/s": speed, "errors": 0.0})
        for name, of_target in speeds.items()
        for turn, speed in enumerate(of_target)
    ]
    samples.append(Sample("p", "r", "b", 3, {"only b": 7.0}))
    assert [(line.figure, line.target, line.middle, line.ratio) for line in lines(samples)] == [
        ("tok/s", "a", 20, 1),
        ("tok/s", "b", 30, 1.5),
        ("errors", "a", 0, None),
        ("errors", "b", 0, None),
        ("only b", "b", 7, None),
    ]
    assert table(samples).splitlines()[3] == "| p | r | tok/s | b | 30 (20 to 40) | 1.50 |"


def test_the_share_of_what_the_library_computes_is_that_of_the_same_repetition() -> None:
    totals = {"llama-server": (100.0, 50.0), "worker": (95.0, 60.0), LIMIT: (100.0, 80.0)}
    samples = [
        Sample("streams", "r", name, turn, {TOTAL: total})
        for name, of_target in totals.items()
        for turn, total in enumerate(of_target)
    ]
    shares = {line.target: line.middle for line in lines(samples) if line.figure == f"of {LIMIT}"}
    assert shares == {"llama-server": pytest.approx(0.8125), "worker": pytest.approx(0.85)}


def test_what_is_measured_is_chosen_by_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--part", "shared", "--target", "a=unix:a.sock", "--target", "b=http://h", "--repeat", "5"]
    plan, out = parse_arguments(given)
    assert (plan.parts, plan.repeat, out) == (("shared",), 5, None)
    assert [target.name for target in plan.targets] == ["a", "b"]
    assert parse_arguments(["--work", "w", "--model", "m"])[0].parts == tuple(PARTS)
    with pytest.raises(SystemExit):
        parse_arguments(["--work", "w"])
    assert "--model" in capsys.readouterr().err


def test_the_limit_of_the_library_is_read_from_its_line_of_json() -> None:
    line = argv(Path("bb"), Path("m.gguf"), Shape(4), threads=2)
    assert line[line.index("-npl") + 1] == "4"
    assert line[line.index("--ctx-size") + 1] == str(4 * (119 + 128))
    printed = 'warming up\n{"pp": 119, "speed_pp": 320.5, "speed_tg": 160.25, "speed": 200.0}\n\n'
    assert batched_bench.parse(printed) == batched_bench.Limit(320.5, 160.25, 200.0)
    with pytest.raises(RuntimeError, match="no figures"):
        batched_bench.parse("usage: …")


async def test_a_program_that_fails_is_no_limit() -> None:
    with pytest.raises(RuntimeError, match="ended with 1"):
        await batched_bench.measure(Path("/bin/false"), Path("m.gguf"), Shape(1), threads=1)


SERVING = """
import sys, http.server
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Healthy).serve_forever()
"""


async def test_servers_run_as_long_as_they_are_needed(tmp_path: Path, unused_tcp_port: int) -> None:
    target = Target("x", f"http://127.0.0.1:{unused_tcp_port}", "m")
    server = Server(target, [sys.executable, "-c", SERVING, str(unused_tcp_port)])
    async with running([server], tmp_path):
        _, writer = await asyncio.open_connection("127.0.0.1", unused_tcp_port)
        writer.close()
        await writer.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", unused_tcp_port)


async def test_a_server_that_ends_before_it_is_ready_ends_the_measurement(tmp_path: Path) -> None:
    server = Server(Target("x", "http://127.0.0.1:9", "m"), ["/bin/false"])
    with pytest.raises(RuntimeError, match=r"x ended with 1 before it was ready, see .*x\.log"):
        async with running([server], tmp_path):
            raise AssertionError("it never was")


def test_a_part_is_one_of_those_there_are() -> None:
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        parse_arguments(["--part", "nothing", "--target", "a=unix:s"])
