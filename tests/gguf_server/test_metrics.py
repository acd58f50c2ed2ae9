"""`/metrics` of a gateway over fake engines."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from gguf_server.metrics.engines import EngineMetrics, Miss
from tests.gguf_server.gateway import Gateway, gateway
from tests.gguf_server.vllm_metrics import VLLM_TEXT

STREAMING = ("--answer-words", "40", "--token-s", "0.001")


def told_by(text: str, folder: Path) -> tuple[str, str]:
    """Flags of a fake engine that tells this."""
    path = folder / "metrics.txt"
    path.write_text(text)
    return "--metrics", str(path)


async def scrape(gate: Gateway) -> str:
    async with gate.session.get(gate.url + "/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return await response.text()


def series(text: str, name: str, **labels: str) -> float:
    """The sum over the series of that name and those labels."""
    lines = [line for line in text.splitlines() if re.match(rf"{re.escape(name)}[ {{]", line)]
    found = [line for line in lines if all(f'{key}="{value}"' in line for key, value in labels.items())]
    assert found, f"no {name} with {labels}"
    return sum(float(line.rpartition(" ")[2]) for line in found)


async def test_a_scrape_tells_how_requests_went_and_what_the_engines_are() -> None:
    async with gateway(STREAMING) as gate:
        await gate.until_up("a")
        assert (await gate.ask(stream=True)).is_done
        await gate.ask(path="/nowhere")
        text = await scrape(gate)
    assert series(text, "gguf_requests_total", outcome="answered", engine="a") == 1
    assert series(text, "gguf_time_to_first_token_seconds_count", engine="a") == 1
    assert series(text, "gguf_inter_token_seconds_count", engine="a") == 1
    assert 0.0005 < series(text, "gguf_inter_token_seconds_sum", engine="a") < 1
    assert series(text, "gguf_completion_tokens_total") == 40
    assert series(text, "gguf_engine_state", engine="0:a", state="ready") == 1
    assert series(text, "gguf_engine_state") == 1
    assert series(text, "gguf_requests_waiting_limit") == 64
    assert series(text, "gguf_engine_resident_memory_bytes") > 1e6
    assert series(text, "gguf_build_info") == 1
    assert series(text, "process_resident_memory_bytes") > 1e6


async def test_failovers_are_told_by_reason() -> None:
    async with gateway(STREAMING, STREAMING, standby="warm") as gate:
        await gate.until_up("a", "b")
        await gate.arm("a", "error_500")
        assert (await gate.ask(stream=True)).n_failovers == 1
        text = await scrape(gate)
    moved = {"from": "0:a", "to": "1:b", "scope": "request", "reason": "answered_5xx"}
    assert series(text, "gguf_engine_moves_total", **moved) == 1


async def test_an_engines_own_metrics_come_along_with_its_labels(tmp_path: Path) -> None:
    async with gateway(told_by(VLLM_TEXT, tmp_path), ("--answer-words", "1"), standby="warm") as gate:
        await gate.until_up("a", "b")
        text = await scrape(gate)
    assert series(text, "vllm:generation_tokens_total", service="fake", engine="0:a", kind="vllm") == 321
    assert series(text, "fake_steps_total", engine="1:b", kind="llamacpp") >= 0
    assert text.count("# TYPE fake_steps_total ") == 1


async def test_an_engine_that_speaks_nonsense_costs_a_count(tmp_path: Path) -> None:
    async with gateway(told_by("<html>\n", tmp_path), ("--answer-words", "1"), standby="warm") as gate:
        await gate.until_up("a", "b")
        text = await scrape(gate)
    assert series(text, "gguf_engine_scrape_misses_total", engine="0:a", reason="nonsense") == 1
    assert series(text, "fake_steps_total", engine="1:b") >= 0


async def test_an_engine_without_metrics_is_asked_once(tmp_path: Path) -> None:
    async with gateway(("--metrics", str(tmp_path / "none"))) as gate:
        await gate.until_up("a")
        engines = EngineMetrics(timeout_s=5.0)
        assert await engines.fetch([gate.service]) == await engines.fetch([gate.service]) == []
        (sample,) = engines.misses([gate.service]).samples
        assert (sample.labels["reason"], sample.value) == (Miss.STATUS, 1)


async def test_an_engine_that_does_not_answer_is_not_waited_for() -> None:
    async with gateway(()) as gate:
        await gate.until_up("a")
        pid = gate.link("a").engine.pid
        engines = EngineMetrics(timeout_s=0.05)
        os.killpg(pid, signal.SIGSTOP)
        try:
            assert await engines.fetch([gate.service]) == []
        finally:
            os.killpg(pid, signal.SIGCONT)
        (sample,) = engines.misses([gate.service]).samples
        assert sample.labels["reason"] == Miss.TIMEOUT


async def test_promtool_finds_nothing_to_say_of_a_scrape() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: the exposition cannot be checked by Prometheus' own program")
    async with gateway(STREAMING, STREAMING, standby="warm") as gate:
        await gate.until_up("a", "b")
        await gate.arm("a", "error_500")
        await gate.ask(stream=True)
        text = await scrape(gate)
    checked = await asyncio.to_thread(
        subprocess.run, ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=20
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
