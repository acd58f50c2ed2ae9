from __future__ import annotations

import argparse
import os
import shlex
import socket
import sys
import threading
from pathlib import Path

import orjson
import psutil
import pytest

from bench import overhead
from bench.measuring.ask import Answer, check
from bench.measuring.load import Target
from bench.overhead import Plan, parse_arguments, parse_proxy, run, setting
from bench.peers import main as peers
from bench.reports.overhead_table import Sample, report, summary, table
from bench.servers import processes
from bench.servers.story import ChunkBook
from gguf_server import config

PACED = ["first chunk", "in step", "out of step", "whole", "whole together"]


def plan(*targets: Target) -> Plan:
    return Plan(targets, 2, requests=3, streams=2, chunks=4, unpaced_chunks=40, interval_ms=0.5, rate=10_000)


async def test_every_repetition_measures_every_target_in_turn(url: str) -> None:
    """The upstream stands for the proxy as well."""
    of = plan(Target("direct", url, "fake"), Target("proxy", url, "fake", key="secret"))
    samples = await run(of, PACED)
    assert [(sample.measure, sample.repetition, sample.target) for sample in samples] == [
        (measure, turn, target) for measure in PACED for turn in range(2) for target in ("direct", "proxy")
    ]
    figures = {(sample.measure, sample.target): set(sample.figures) for sample in samples}
    assert figures["first chunk", "proxy"] == figures["whole", "direct"] == {"p50 ms", "p95 ms"}
    assert figures["in step", "direct"] == {"chunks/s"}
    assert figures["out of step", "proxy"] == {"chunks/s", "CPU us/chunk", "cores"}
    assert figures["whole together", "proxy"] == {"requests/s", "CPU ms/request"}
    written = orjson.dumps(report(setting(of), samples))
    assert b"secret" not in written
    assert orjson.loads(written)["setting"]["targets"] == {"direct": url, "proxy": url}


async def test_on_a_core_of_its_own_a_proxy_is_measured_and_then_let_go(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = sorted(os.sched_getaffinity(0))[:1]
    monkeypatch.setattr(processes, "cores_apart", lambda: (core, core))
    before = os.sched_getaffinity(0)
    samples = await run(plan(Target("direct", url, "fake"), Target("proxy", url, "fake")), ["one core", "unpaced"])
    assert len(samples) == 8
    assert all(sample.figures["chunks/s"] > 0 for sample in samples)
    assert os.sched_getaffinity(0) == before


async def test_a_target_that_does_not_come_up_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "_START_LIMIT_S", 0.05)
    monkeypatch.setattr(overhead, "_START_POLL_S", 0.001)
    with pytest.raises(RuntimeError, match=r"direct is not ready after 0\.05 s: Cannot connect"):
        await run(plan(Target("direct", "http://127.0.0.1:9", "fake")), PACED)


def test_an_answer_that_lost_or_merged_something_is_no_figure() -> None:
    events = [piece.split(b"\r\n")[1] for piece in ChunkBook(is_chat=True).chunks(3, with_usage=True)]
    check([_answer(b"".join(events))], 3, stream=True)
    with pytest.raises(RuntimeError, match="2 chunks is not what"):
        check([_answer(b"".join(events[:2] + events[3:]))], 3, stream=True)
    merged = b"".join(events).replace(b'"content":" upon"', b'"content":" upon a"').replace(b'" a"', b'""')
    with pytest.raises(RuntimeError, match="3 chunks arrived as 2"):
        check([_answer(merged)], 3, stream=True)


def test_what_is_added_is_the_difference_within_a_repetition() -> None:
    times_ms = {"direct": (1.0, 5.0, 2.0), "proxy": (2.0, 6.5, 4.0)}
    samples = [
        Sample("whole", target, turn, {"p50 ms": value, "requests/s": 100 * value})
        for target, values in times_ms.items()
        for turn, value in enumerate(values)
    ]
    added = summary(samples)["whole"]["proxy"]["added p50 ms"]
    assert (added.middle, added.least, added.most) == (1.5, 1.0, 2.0)
    assert "added p50 ms" not in summary(samples)["whole"]["direct"]
    assert table(samples).splitlines()[-1] == (
        "| whole | proxy | p50 ms 4 (2 to 6.5); added p50 ms 1.5 (1 to 2); requests/s 400 (200 to 650) |"
    )


def test_a_proxy_is_written_as_name_url_and_options() -> None:
    target = parse_proxy("x=http://127.0.0.1:1,key=k=1,model=m")
    assert (target.name, target.url, target.key, target.model) == ("x", "http://127.0.0.1:1", "k=1", "m")
    for wrong in ("http://host", "direct=http://h", "x=http://h,oops=1", "x=unix:s"):
        with pytest.raises(argparse.ArgumentTypeError, match="NAME=URL"):
            parse_proxy(wrong)


def test_the_printed_commands_start_both_proxies_and_can_be_parsed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.peers", "proxies", "--work", str(tmp_path / "work")])
    assert peers() == 0
    lines = capsys.readouterr().out.replace("\\\n", "").splitlines()
    assert [line.endswith("2>&1 &") for line in lines] == [True, True, True, False, False]
    given, measures, out = parse_arguments(shlex.split(lines[3])[3:])
    assert [target.name for target in given.targets] == ["direct", "gateway", "litellm"]
    gateway = config.load(tmp_path / "work" / "overhead-gateway.toml", environ={})
    [engine] = gateway.services["fake"].engines
    assert (engine.kind, f"http://127.0.0.1:{gateway.server.port}") == ("openai", given.targets[1].url)
    assert (given.repeat, measures, out) == (5, list(overhead.MEASURES), Path("overhead.json"))


def test_the_process_behind_a_port_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert processes.listening_at(url).pid == os.getpid()
        assert processes.cpu_s(psutil.Process()) > 0
    with pytest.raises(LookupError):
        processes.listening_at(url)


def test_pinning_reaches_every_thread_and_ends() -> None:
    core = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    leave = threading.Event()
    thread = threading.Thread(target=leave.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        with processes.pinned({psutil.Process(): [core]}):
            assert os.sched_getaffinity(0) == os.sched_getaffinity(thread.native_id) == {core}
        assert os.sched_getaffinity(0) == os.sched_getaffinity(thread.native_id) == before
    finally:
        leave.set()
        thread.join()


def _answer(data: bytes) -> Answer:
    return Answer(0.1, 0.2, data)
