from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from aiohttp.test_utils import TestServer

from bench.command import main
from bench.measuring.machine import this_machine
from bench.records import record
from bench.records.record import Report
from bench.servers.peer_builds import PeerBuilds
from bench.servers.recipes import Place
from bench.suites.display import Lines
from bench.suites.suite import Suite
from bench.suites.suite_run import Results, Setup, run_suite
from tests.bench.fake_server import FakeServer

FAKE = [sys.executable, "-m", "tests.bench.fake_process", "{port}"]


def fake(name: str, *more: str, **table: object) -> dict[str, object]:
    return {"kind": "command", "name": name, "argv": [*FAKE, *more], **table}


def words(**table: object) -> dict[str, object]:
    return {"name": "words", "kind": "words", "options": {"max_tokens": 4}, "streams": [2], "requests": 1, **table}


def suite_of(*targets: Mapping[str, object], **table: object) -> Suite:
    part = {"name": "fakes", "targets": targets, "workloads": [words()], **table}
    return Suite.model_validate({"name": "fakes", "title": "Fakes", "repetitions": 2, "parts": [part]})


async def measured(suite: Suite, folder: Path) -> tuple[Report, str]:
    """The result, and what was shown."""
    results, shown = Results(suite.name, this_machine()), io.StringIO()
    place = Place(folder, PeerBuilds(folder), threads=1)
    saved = folder / "result.json"
    setup = Setup(suite, place, "seed", results, Lines(shown), lambda: record.write(results.report(), saved))
    before = set(psutil.Process().children(recursive=True))
    await run_suite(setup)
    assert set(psutil.Process().children(recursive=True)) <= before
    if results.runs:
        assert record.read(saved) == record.parse(record.dump(results.report()))
    return results.report(), shown.getvalue()


async def test_servers_are_started_measured_in_turns_and_ended(tmp_path: Path) -> None:
    report, shown = await measured(suite_of(fake("a"), fake("b", "--child")), tmp_path)
    assert [(run.target, run.repetition) for run in report.runs] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    for run in report.runs:
        assert run.figures["output_tok"] == 8
        assert run.figures["rss_peak_bytes"] > 0
        assert not run.error_kinds
    assert [target.model for target in report.targets] == ["fake", "fake"]
    assert report.targets[0].argv[-1].isdigit()
    assert "[4/4] b, words, 2 streams, repetition 2: " in shown


async def test_a_server_that_dies_is_a_row_with_its_error_and_is_started_again(tmp_path: Path) -> None:
    one_stream = [words(streams=[1], requests=2)]
    report, shown = await measured(suite_of(fake("a"), fake("b", "--dies-after", "2"), workloads=one_stream), tmp_path)
    rows = {(run.target, run.repetition): run for run in report.runs}
    assert len(rows) == 4
    assert not rows["a", 1].error_kinds
    assert rows["b", 0].figures["errors"] == 1
    assert rows["b", 1].error_kinds["server_died"] == 1
    [note] = report.notes
    assert note.startswith("b ended with 7, see ")
    assert note.endswith("out of memory (during words)")
    assert shown.count("starting b") == 2


async def test_a_server_that_never_comes_up_is_tried_twice_and_every_row_says_so(tmp_path: Path) -> None:
    broken = {"kind": "command", "name": "b", "argv": ["/bin/false"]}
    report, shown = await measured(suite_of(fake("a"), broken, workloads=[words(streams=[1, 2])]), tmp_path)
    rows = [run for run in report.runs if run.target == "b"]
    assert [dict(run.error_kinds) for run in rows] == [{"server_not_ready": 1}] * 4
    assert shown.count("starting b") == 2
    assert report.notes[0].startswith("b ended with 1 before it was ready")
    assert len([run for run in report.runs if run.figures.get("output_tok")]) == 4


async def test_who_is_not_here_is_told_and_left_out_if_that_was_allowed(tmp_path: Path) -> None:
    here, away = fake("a"), {"kind": "llama-server", "name": "llama-server"}
    part = {"model": sys.executable}  # any file: nothing reads it before it is served
    report, _ = await measured(suite_of(here, {**away, "optional": True}, **part), tmp_path)
    assert [target.name for target in report.targets] == ["a"]
    assert report.notes[0].startswith("llama-server is left out: there is no ")
    assert "python -m bench.peers build --work" in report.notes[0]
    report, _ = await measured(suite_of(here, away, **part), tmp_path)
    rows = [dict(run.error_kinds) for run in report.runs if run.target == "llama-server"]
    assert rows == [{"server_not_ready": 1}] * 2
    assert report.notes[0].startswith("llama-server is not here: there is no ")


async def test_one_server_at_a_time_is_started_in_every_repetition(tmp_path: Path) -> None:
    report, shown = await measured(suite_of(fake("a"), fake("b"), together=False), tmp_path)
    lines = [line for line in shown.splitlines() if line.startswith("starting")]
    assert lines == ["starting a", "starting b"] * 2
    assert [run.target for run in report.runs] == ["a", "b", "a", "b"]


async def test_a_server_that_runs_already_is_only_asked(tmp_path: Path, unused_tcp_port: int) -> None:
    server = FakeServer()
    async with TestServer(server.app()) as running:
        here = {"kind": "url", "name": "a", "url": str(running.make_url("/")), "key": "sk-secret"}
        gone = {"kind": "url", "name": "gone", "url": f"http://127.0.0.1:{unused_tcp_port}"}
        report, _ = await measured(suite_of(here, gone), tmp_path)
    assert {run.target: dict(run.error_kinds) for run in report.runs} == {"a": {}, "gone": {"server_not_ready": 1}}
    assert report.notes == ("gone does not tell its model: ClientConnectorError",)
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer sk-secret"}
    assert b"sk-secret" not in record.dump(report)


async def test_the_deadline_ends_the_suite_with_what_there_is(tmp_path: Path) -> None:
    suite = suite_of(fake("a")).model_copy(update={"deadline_s": 0.001})
    report, _ = await measured(suite, tmp_path)
    assert report.runs == ()
    assert report.notes == ("ended at its deadline of 0.001 s, after 0 of 2 runs",)


SLOW_SUITE = """
title = "Never ends"
[[parts]]
name = "fakes"
[[parts.targets]]
kind = "command"
name = "a"
argv = {argv}
[[parts.workloads]]
name = "words"
kind = "words"
options = {{ max_tokens = 4 }}
rates_per_s = [1000.0, 0.0001]
arrivals = 2
"""


def test_an_interrupt_leaves_a_valid_result_and_no_process(tmp_path: Path) -> None:
    (tmp_path / "slow.toml").write_text(SLOW_SUITE.format(argv=json.dumps(FAKE)))
    argv = [sys.executable, "-m", "bench", "run", "--suite", "slow.toml", "--out", "out", "--repeat", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(argv, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as bench:
        assert bench.stderr is not None
        while "[1/2]" not in (line := bench.stderr.readline()):
            assert line
        children = psutil.Process(bench.pid).children(recursive=True)
        assert children
        bench.send_signal(signal.SIGINT)
        bench.send_signal(signal.SIGTERM)
        bench.stderr.read()
        assert bench.wait() == 130
    assert not [child for child in children if child.is_running()]
    report = record.read(tmp_path / "out" / "result.json")
    assert [run.figures["output_tok"] for run in report.runs] == [8]
    assert report.notes == ("interrupted after 1 runs",)
    assert (tmp_path / "out" / "report.md").is_file()
    assert (tmp_path / "out" / "report.html").is_file()


QUESTIONS = """
title = "Questions"
[[parts]]
name = "any"
[[parts.workloads]]
name = "words"
kind = "words"
options = { max_tokens = 4 }
streams = [1]
"""


def test_servers_of_the_command_line_get_a_suites_questions_and_all_reports_are_written(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, out = tmp_path / "questions.toml", tmp_path / "out"
    suite.write_text(QUESTIONS)
    given = [
        "run",
        "--suite",
        str(suite),
        "--repeat",
        "1",
        "--target",
        f"a={url}",
        "--target",
        f"b={url},key=sk-secret",
    ]
    assert main([*given, "--out", str(out)]) == 0
    report = record.read(out / "result.json")
    assert [(run.target, run.figures["output_tok"]) for run in report.runs] == [("a", 8), ("b", 8)]
    assert all(run.figures["rss_peak_bytes"] > 0 for run in report.runs)
    assert not [path for path in out.iterdir() if b"sk-secret" in path.read_bytes()]
    assert "<svg" in (out / "report.html").read_text()
    assert capsys.readouterr().out.startswith("# Measured: questions")
    assert main(["report", str(out / "result.json")]) == 0
    assert main(["compare", *[str(out / "result.json")] * 2]) == 0
    assert main(["suggest", str(out / "result.json")]) == 1
    assert "there is no engine in the results" in capsys.readouterr().err


async def test_a_suites_questions_go_to_the_targets_of_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--suite", "standard", "--out", str(tmp_path)]) == 2
    assert "suite 'standard' names no servers: give --target NAME=URL" in capsys.readouterr().err
    assert main(["run", "--target", "a=http://h", "--target", "a=http://i"]) == 2
    assert "two targets have the same name" in capsys.readouterr().err
    assert main(["rum"]) == 2
    assert "there are run, report, compare, suggest" in capsys.readouterr().err
