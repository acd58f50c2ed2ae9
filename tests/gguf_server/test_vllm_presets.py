"""What the presets make of vLLM: three variations of one command line, and two that stand in for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.vllm.argv import argv, on_port
from backends.vllm.memory import GIB, CardMemory
from backends.vllm.model_files import quantization_of
from backends.vllm.spec import VllmSpec
from gguf_server import config, engines, gpus
from gguf_server.settings.engines import VllmEngineSettings

USED = {"name": "card", "memory_used_bytes": 4 * GIB, "memory_total_bytes": 12 * GIB}
PRESETS = ("qwen3", "qwen3-awq", "gemma4", "gemma4-qat", "qwen2.5")


def spec_of(preset: str, weights: str | None = None) -> VllmSpec:
    service = config.load(presets=[preset], environ={}).services[preset]
    if weights is not None:
        service = service.model_copy(update={"weights": weights})
    engine = service.engines[0]
    assert isinstance(engine, VllmEngineSettings)
    return engines._vllm_spec(engine, service, Path("/run"))


def line_of(preset: str) -> str:
    spec = spec_of(preset)
    return " ".join(argv(spec, python="py", model=spec.model.rpartition("/")[2], listen=on_port(spec.port)))


def test_qwen3_is_a_gguf_with_the_tokenizer_of_its_base_model() -> None:
    assert line_of("qwen3") == (
        "py -m vllm.entrypoints.cli.main serve Qwen3-14B-Claude-4.5-Opus-Distill.q4_k_m.gguf"
        " --served-model-name qwen3-14b qwen3-claude-distill --host 127.0.0.1 --port 8093"
        " --max-model-len 14384 --max-num-seqs 4 --gpu-memory-utilization 0.92 --dtype float16"
        " --tokenizer Qwen/Qwen3-14B --reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes"
        " --disable-uvicorn-access-log"
    )


def test_gemma4_is_quantized_while_it_loads() -> None:
    assert line_of("gemma4") == (
        "py -m vllm.entrypoints.cli.main serve gemma-4-E4B-it"
        " --served-model-name gemma-4-e4b-it google/gemma-4-E4B-it gemma-2-9b-it --host 127.0.0.1 --port 8092"
        " --max-model-len 4096 --max-num-seqs 2 --gpu-memory-utilization 0.97 --dtype bfloat16"
        " --quantization bitsandbytes --reasoning-parser gemma4 --enable-auto-tool-choice --tool-call-parser gemma4"
        ' --limit-mm-per-prompt {"image":1,"audio":0,"video":0} --allowed-media-domains none.invalid --enforce-eager'
        " --disable-uvicorn-access-log"
    )


def test_qwen2_5_calls_tools() -> None:
    assert line_of("qwen2.5") == (
        "py -m vllm.entrypoints.cli.main serve Qwen2.5-7B-Instruct-AWQ"
        " --served-model-name qwen2.5-7b --host 127.0.0.1 --port 8094"
        " --max-model-len 8192 --max-num-seqs 4 --gpu-memory-utilization 0.9 --dtype float16"
        " --enable-auto-tool-choice --tool-call-parser hermes --disable-uvicorn-access-log"
    )


@pytest.mark.parametrize(
    ("preset", "model"), [("gemma4-qat", "gemma-4-E4B-it-qat-w4a16-ct"), ("qwen3-awq", "Qwen3-14B-AWQ")]
)
def test_a_variant_has_its_quantization_in_the_checkpoint(preset: str, model: str) -> None:
    assert f" serve {model} " in line_of(preset)
    assert "--quantization" not in line_of(preset)


def test_the_quantizations_are_told_apart() -> None:
    told = {preset: quantization_of(spec_of(preset)) for preset in PRESETS}
    assert told == {"qwen3": "gguf", "qwen3-awq": "awq", "gemma4": "bitsandbytes", "gemma4-qat": None, "qwen2.5": "awq"}


def test_the_preset_that_a_full_card_is_pointed_to_is_there() -> None:
    assert spec_of("gemma4").smaller_preset in config.preset_names()
    assert spec_of("gemma4").weights_gib == 8.7


def test_the_weights_of_the_service_are_those_of_qwen3() -> None:
    assert spec_of("qwen3", "/m/other.gguf").model == "/m/other.gguf"


def test_the_memory_of_a_card_is_known_where_it_is_plain_which_card(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = CardMemory(free_bytes=8 * GIB, total_bytes=12 * GIB)
    monkeypatch.setattr(gpus, "read", lambda: [USED])
    assert engines._card_memory(None) == engines._card_memory(0) == memory
    assert engines._card_memory(1) is None
    monkeypatch.setattr(gpus, "read", lambda: [{**USED, "memory_used_bytes": 0}, USED])
    assert engines._card_memory(None) is None
    assert engines._card_memory(1) == memory
    monkeypatch.setattr(gpus, "read", lambda: None)
    assert engines._card_memory(0) is None
