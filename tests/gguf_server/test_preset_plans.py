"""The presets on the cards they are for: files of the real models' shapes, whose tensors are a hole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gguf_server import config
from gguf_server.engines import forecasts
from gguf_server.forecast import Forecast
from gguf_server.settings import ServiceSettings
from tests.weights import real_models
from tests.weights.test_vllm_memory import GEMMA4_E4B, QWEN25_7B_AWQ
from weights.cards import CARDS

MIB = 1 << 20
USED = 400 * MIB  # by a driver and a small desktop


def planned(preset: str, card: str, folder: Path, *, used: int = USED, **overrides: Any) -> list[Forecast]:
    of = CARDS[card]
    seen = {"name": of.name, "memory_used_bytes": used, "memory_total_bytes": of.memory_bytes}
    settings = config.load(presets=[preset], environ={}).services[preset]
    service = ServiceSettings.model_validate({**settings.model_dump(), **overrides})
    return forecasts(service, folder, lambda: [seen])


def checkpoint(folder: Path, configuration: dict[str, Any]) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(configuration))
    return str(folder)


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real_models.write("qwen3-14b", "Q4_K_M", tmp_path_factory.mktemp("qwen3") / "qwen3-14b.gguf")


async def test_both_card_engines_of_qwen3_may_try_its_card_and_their_speed_is_known(
    qwen3: Path, tmp_path: Path
) -> None:
    vllm, llamacpp, _ = planned("qwen3", "rtx-5060-ti-16gb", tmp_path, weights=str(qwen3))
    for forecast in (vllm, llamacpp):
        assert await forecast.refuses() is None
        assert forecast.plan.gaps == ()
    assert llamacpp.expected_tokens_per_s == pytest.approx(45, rel=0.25)


async def test_qwen3_is_not_tried_on_the_smaller_card(qwen3: Path, tmp_path: Path) -> None:
    vllm, llamacpp, _ = planned("qwen3", "rtx-3060-12gb", tmp_path, weights=str(qwen3))
    refused = await llamacpp.refuses()
    assert refused is not None
    assert "of the card are free; what would fit" in refused.detail
    assert "n_ctx = " in refused.detail
    assert await vllm.refuses() is None  # too large by less than the plan may be wrong
    assert "its settings let it have" in vllm.doubts[0]
    vllm, *_ = planned("qwen3", "rtx-3060-12gb", tmp_path, weights=str(qwen3), max_model_len=24000)
    refused = await vllm.refuses()
    assert refused is not None
    assert "its settings let it have" in refused.detail
    assert "max_model_len = " in refused.detail


async def test_a_card_that_somebody_else_fills_is_not_tried(qwen3: Path, tmp_path: Path) -> None:
    full = planned("qwen3", "rtx-5060-ti-16gb", tmp_path, weights=str(qwen3), used=10_000 * MIB)
    for forecast in full[:2]:
        refused = await forecast.refuses()
        assert refused is not None
        assert "of the card are free" in refused.detail


async def test_a_share_that_extra_args_change_is_for_vllm_to_judge(qwen3: Path, tmp_path: Path) -> None:
    settings = config.load(presets=["qwen3"], environ={}).services["qwen3"].model_dump()["engines"]
    engines = [{**settings[0], "extra_args": ["--max-model-len", "2048"]}, *settings[1:]]
    vllm, *_ = planned("qwen3", "rtx-3060-12gb", tmp_path, weights=str(qwen3), engines=engines, max_model_len=24000)
    assert await vllm.refuses() is None
    assert vllm.doubts


@pytest.mark.parametrize(("preset", "configuration"), [("gemma4", GEMMA4_E4B), ("qwen2.5", QWEN25_7B_AWQ)])
async def test_checkpoints_of_the_smaller_cards_presets_fit_it(
    preset: str, configuration: dict[str, Any], tmp_path: Path
) -> None:
    settings = config.load(presets=[preset], environ={}).services[preset].model_dump()["engines"]
    model = checkpoint(tmp_path / "model", configuration)
    engines = [{**settings[0], "model": model}, *settings[1:]]
    vllm, *_ = planned(preset, "rtx-3060-12gb", tmp_path, engines=engines)
    assert await vllm.refuses() is None
    assert vllm.plan.memory is not None
    assert vllm.plan.gaps == ("no speed is planned for vLLM with anything but a GGUF",)


async def test_gemma4_on_llama_cpp_fits_the_smaller_card(tmp_path: Path) -> None:
    weights = real_models.write("gemma-4-e4b", "Q4_K_M", tmp_path / "gemma.gguf")
    mmproj = real_models.write_gemma4_projector(tmp_path / "mmproj.gguf")
    _, llamacpp, _ = planned("gemma4", "rtx-3060-12gb", tmp_path, weights=str(weights), mmproj=str(mmproj))
    assert await llamacpp.refuses() is None
    assert llamacpp.plan.memory is not None
    assert {part.name for part in llamacpp.plan.memory.parts} >= {"weights", "KV cache", "image encoder"}


async def test_what_is_not_on_this_machine_is_unknown_and_stops_nobody(tmp_path: Path) -> None:
    for forecast in planned("gemma4", "rtx-3060-12gb", tmp_path):
        assert await forecast.refuses() is None
        assert "cannot be read" in forecast.plan.gaps[0]
