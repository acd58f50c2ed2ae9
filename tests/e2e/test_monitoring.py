"""Metrics of the real program with the real worker, and what is made of them: alerts and a dashboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.client import Client, chat
from tests.e2e.program import KEY, Program, free_ports
from tests.gguf_server.vllm_metrics import VLLM_TEXT

MONITORING = Path(__file__).parents[2] / "docs" / "operating" / "monitoring"
RULES = MONITORING / "gguf-server.rules.yml"
DASHBOARD = json.loads((MONITORING / "gguf-server.dashboard.json").read_text(encoding="utf-8"))

CONFIG = """
[metrics]
port = {port}

[services.demo]
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def promtool() -> Run:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: rules cannot be checked by Prometheus' own program")

    def run(*arguments: str, told: str | None = None, folder: Path = MONITORING) -> subprocess.CompletedProcess[str]:
        line = ("promtool", *arguments)
        return subprocess.run(line, input=told, cwd=folder, capture_output=True, text=True, timeout=30)

    return run


def dashboard_expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\b(?:gguf_|vllm:|process_)[a-z0-9_]+", text))


def names_told(scrape: str) -> set[str]:
    """Of series, those of histograms included."""

    def of(name: str, kind: str) -> Iterator[str]:
        yield from (f"{name}_{part}" for part in ("bucket", "count", "sum")) if kind == "histogram" else (name,)

    return {
        series for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", scrape, re.MULTILINE) for series in of(name, kind)
    }


def test_the_metrics_of_the_program_hold_all_that_alerts_and_dashboard_ask_for(
    start: Callable[..., Program], promtool: Run
) -> None:
    (port,) = free_ports(1)
    program = start(config=CONFIG.format(port=port))
    program.becomes_ready()
    Client(program.url("/demo")).post("/v1/chat/completions", chat("Say hello", max_tokens=8, ignore_eos=True))
    scrape = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    assert 'gguf_requests_total{engine="llama.cpp",outcome="answered",service="demo"} 1.0' in scrape
    (worker,) = re.findall(r"^gguf_worker_generation_tokens_total\{(.*)\} (\S+)$", scrape, re.MULTILINE)
    assert 'service="demo"' in worker[0]
    assert 'kind="llamacpp"' in worker[0]
    assert float(worker[1]) >= 8
    told = names_told(scrape) | names_told(VLLM_TEXT)
    wanted = names_in(RULES.read_text(encoding="utf-8") + "\n".join(dashboard_expressions()))
    assert len(wanted) > 30
    assert wanted - told == set()
    shared = requests.get(program.url("/metrics"), headers={"Authorization": f"Bearer {KEY}"}, timeout=10)
    assert names_told(shared.text) == names_told(scrape)
    checked = promtool("check", "metrics", told=scrape)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_the_rules_are_sound_and_ring_when_they_should(promtool: Run) -> None:
    for command in (("check", "rules", RULES.name), ("check", "config", "prometheus.yml")):
        checked = promtool(*command)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = promtool("test", "rules", "gguf-server.rules.test.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    rules = RULES.read_text(encoding="utf-8")
    tests = (MONITORING / "gguf-server.rules.test.yml").read_text(encoding="utf-8")
    alerts = re.findall(r"- alert: (\w+)", rules)
    assert len(alerts) == len(set(alerts)) == rules.count("          action:")
    assert set(alerts) == set(re.findall(r"alertname: (\w+)", tests))


def test_prometheus_understands_every_expression_of_the_dashboard(promtool: Run, tmp_path: Path) -> None:
    given = {"$service": ".*", "$__rate_interval": "5m"}
    rules: list[dict[str, Any]] = []
    for number, expression in enumerate(dashboard_expressions()):
        for name, value in given.items():
            expression = expression.replace(name, value)
        rules.append({"record": f"panel:{number}", "expr": expression})
    # JSON is YAML, too
    (tmp_path / "panels.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    checked = promtool("check", "rules", "panels.yml", folder=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_dashboards_panels_have_places_of_their_own() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells
