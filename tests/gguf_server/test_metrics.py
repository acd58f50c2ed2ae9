"""`/metrics` of a gateway over fake engines."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from gguf_server import gateway as shared_parts
from gguf_server.keys import KeyRing
from gguf_server.metrics.access import MetricsKey, MetricsKeyError, open_key, problems
from gguf_server.metrics.engines import EngineMetrics, Miss
from gguf_server.metrics.listener import metrics_listening
from gguf_server.settings import Settings
from gguf_server.settings_observing import MetricsSettings
from tests.gguf_server.gateway import KEY, Gateway, gateway
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


@asynccontextmanager
async def own_port(folder: Path, key: str | None = None) -> AsyncIterator[str]:
    settings = Settings(metrics=MetricsSettings(port=0))
    metrics_key = open_key(settings.metrics, {"GGUF_SERVER_METRICS_KEY": key} if key else {})
    keyring = KeyRing(folder / "keys.json", (KEY,))
    async with metrics_listening(shared_parts.Gateway(settings, keyring, {}, metrics_key=metrics_key)) as port:
        yield f"http://127.0.0.1:{port}/metrics"


async def status_of(url: str, key: str | None) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status


async def test_a_port_of_its_own_asks_for_no_key(tmp_path: Path) -> None:
    async with own_port(tmp_path) as url:
        assert await status_of(url, None) == 200
        assert await status_of(url.replace("/metrics", "/status"), KEY) == 404


async def test_with_a_metrics_key_nothing_else_opens_that_port(tmp_path: Path) -> None:
    async with own_port(tmp_path, "of-the-watchers") as url:
        assert [await status_of(url, key) for key in (None, KEY, "of-the-watchers")] == [401, 401, 200]


async def test_on_the_listener_of_the_clients_an_api_key_opens_them_until_there_is_a_metrics_key() -> None:
    async with gateway(()) as gate:
        url = gate.url + "/metrics"
        assert [await status_of(url, key) for key in (None, KEY)] == [401, 200]


def test_the_metrics_key_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("of-the-file\n")
    in_file = MetricsSettings(key_file=path)
    assert open_key(MetricsSettings(), {}) is None
    assert open_key(in_file, {}) == open_key(MetricsSettings(), {"GGUF_SERVER_METRICS_KEY": "of-the-file"})
    assert open_key(in_file, {"GGUF_SERVER_METRICS_KEY": "another"}) != open_key(in_file, {})
    assert isinstance(open_key(in_file, {}), MetricsKey)


@pytest.mark.parametrize("content", [None, "", "\n", b"\xff\xfe"])
def test_a_metrics_key_that_cannot_be_had_is_no_open_door(tmp_path: Path, content: str | bytes | None) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(MetricsKeyError, match=re.escape(str(path))):
        open_key(MetricsSettings(key_file=path), {})


def test_metrics_for_the_whole_network_need_a_key() -> None:
    exposed = MetricsSettings(host="0.0.0.0", port=9100)
    (problem,) = problems(exposed, {})
    assert "metrics.key_file" in problem
    assert problems(exposed, {"GGUF_SERVER_METRICS_KEY": "k"}) == []
    assert problems(MetricsSettings(host="0.0.0.0"), {}) == []
    assert problems(MetricsSettings(port=9100), {}) == []


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
