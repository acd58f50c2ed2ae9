"""What is counted of requests at their end."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import gguf_server
from gguf_server.admission import Admission
from gguf_server.chain import EngineChain
from gguf_server.metrics.requests import RequestMetrics
from gguf_server.service import Service
from gguf_server.settings import ServiceSettings
from tests.gguf_server.scripted_engine import ScriptedEngine
from tests.gguf_server.test_live_figures import ended


def service(name: str) -> Service:
    of = ServiceSettings.model_validate(
        {
            "model": "fake",
            "service_name": "fake",
            "title": "Fake",
            "paths": [""],
            "max_model_len": 8192,
            "engines": [{"kind": "llamacpp"}],
        }
    )
    return Service(name, of, EngineChain(name, [ScriptedEngine("vllm"), ScriptedEngine("llama.cpp")]), Admission(1, 1))


def values(metrics: RequestMetrics, *names: str, with_others: bool = True) -> dict[tuple[str, ...], float]:
    """What is not zero: name and label values → value."""
    found = metrics.collect([service(name) for name in names or ("demo",)], with_others=with_others)
    return {
        (sample.name, *(value for key, value in sorted(sample.labels.items()) if key != "le")): sample.value
        for metric in found
        for sample in metric.samples
        if sample.value and not sample.name.endswith(("_bucket", "_sum"))
    }


@pytest.mark.parametrize(
    ("known", "outcome"),
    [
        ({}, "answered"),
        ({"error": "engine_failed"}, "failed"),
        ({"status": 503, "error": "engine_not_ready"}, "failed"),
        ({"status": 429, "error": "queue_full"}, "refused"),
        ({"status": 499}, "left"),
    ],
)
def test_each_request_has_one_outcome(known: dict[str, Any], outcome: str) -> None:
    metrics = RequestMetrics()
    metrics.observe(ended(engine="vllm", **known))
    told = values(metrics)
    assert {key: value for key, value in told.items() if key[0] == "gguf_requests_total"} == {
        ("gguf_requests_total", "vllm", outcome, "demo"): 1.0
    }


def test_times_are_kept_where_they_are_known() -> None:
    metrics = RequestMetrics()
    metrics.observe(ended(engine="vllm", queued_s=0.2, ttft_s=0.5, gap_s=0.02, elapsed_s=2.0))
    metrics.observe(ended(engine="vllm", queued_s=0.0, elapsed_s=1.0))
    told = values(metrics)
    assert told["gguf_request_duration_seconds_count", "vllm", "demo"] == 2.0
    assert told["gguf_time_to_first_token_seconds_count", "vllm", "demo"] == 1.0
    assert told["gguf_inter_token_seconds_count", "vllm", "demo"] == 1.0
    assert told["gguf_queue_wait_seconds_count", "demo"] == 2.0


def test_errors_are_counted_by_their_codes_and_those_inside_a_stream_too() -> None:
    metrics = RequestMetrics()
    metrics.observe(ended(status=401, error="invalid_api_key", method="GET"))
    metrics.observe(ended(status=200, error="request_timeout"))
    told = values(metrics)
    assert told["gguf_request_errors_total", "invalid_api_key", "demo", "401"] == 1.0
    assert told["gguf_request_errors_total", "request_timeout", "demo", "504"] == 1.0


def test_a_code_that_an_engine_made_up_is_no_label() -> None:
    metrics = RequestMetrics()
    for number in range(100):
        metrics.observe(ended(status=400, error=f"made_up_{number}"))
    assert values(metrics)["gguf_request_errors_total", "other", "demo", "400"] == 100.0


def test_every_code_of_ours_is_a_label() -> None:
    package = Path(gguf_server.__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in package.rglob("*.py")]
    codes = {code for source in sources for code in re.findall(r'\bcode ?= ?"([a-z_]+)"', source)}
    metrics = RequestMetrics()
    for code in codes:
        metrics.observe(ended(status=400, error=code))
    assert {key[1] for key in values(metrics) if key[0] == "gguf_request_errors_total"} == codes


def test_a_listener_tells_of_its_own_services_alone() -> None:
    metrics = RequestMetrics()
    for name in ("demo", "qwen3", None):
        metrics.observe(ended(service=name, status=404, error="not_found"))
    assert {key[2] for key in values(metrics, "qwen3", with_others=False) if "errors" in key[0]} == {"qwen3"}
    assert {key[2] for key in values(metrics, "qwen3") if "errors" in key[0]} == {"qwen3", ""}


def test_every_outcome_of_an_engine_is_there_before_it_happened() -> None:
    (requests,) = [
        m for m in RequestMetrics().collect([service("demo")], with_others=False) if m.name == "gguf_requests"
    ]
    assert len(requests.samples) == 2 * 4
    assert {sample.labels["engine"] for sample in requests.samples} == {"vllm", "llama.cpp"}
