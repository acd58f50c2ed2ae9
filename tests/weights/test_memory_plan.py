"""The plan against llama.cpp's own breakdown, and what it says of the two cards."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backends.llamacpp import loading
from tests.weights import real_models
from tests.weights.breakdown import MIB, Told
from tests.weights.memory_cases import CASES
from tests.weights.memory_table import PAGE, Compared, compare, page
from tests.weights.two_devices import RECORDED, plan_for_two
from weights.cards import CARDS
from weights.compute_graph import n_output_rows
from weights.gguf_model import GgufModel, read
from weights.memory_plan import LoadSettings, MemoryPlan, UnplannedModel, plan_memory

RELATIVE = 0.05
SLACK_BYTES = 48 << 10
"""Parts of a tiny model are a few KiB; llama.cpp prints two decimals of a MiB, and rounds files to pages."""
GIB = 1 << 30


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    return compare(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, GgufModel]:
    folder = tmp_path_factory.mktemp("large")
    models = {
        name: read(real_models.write(name, "Q4_K_M", folder / f"{name}.gguf")) for name in ("qwen3-14b", "gemma-4-e4b")
    }
    return models | {"projector": read(real_models.write_gemma4_projector(folder / "mmproj.gguf"))}


@pytest.mark.parametrize("name", CASES)
def test_every_part_is_what_llama_cpp_says(measured: Compared, name: str) -> None:
    told, plan = measured[name]
    assert {"KV cache", "recurrent state"} & set(told)
    assert "compute buffers" in told
    _agree(plan, {part: sizes for part, sizes in told.items() if any(sizes.values())})


@pytest.mark.parametrize("name", RECORDED)
def test_card_and_host_share_the_parts_as_llama_cpp_shared_them_between_two_devices(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As llama.cpp said it where a second device was there; `tests.weights.two_devices` asks it."""
    _agree(plan_for_two(name, tmp_path_factory.mktemp("model")), RECORDED[name])


def _agree(plan: MemoryPlan, told: Told) -> None:
    planned = {
        f"{name} on {place}": getattr(plan.part(name), f"{place}_bytes") for name in told for place in ("host", "gpu")
    }
    expected = {f"{name} on {place}": n_bytes for name, sizes in told.items() for place, n_bytes in sizes.items()}
    assert planned == pytest.approx(expected, rel=RELATIVE, abs=SLACK_BYTES)


def test_the_page_is_made_of_these_figures(measured: Compared, tmp_path: Path) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(measured, tmp_path), (
        "python -m tests.weights.memory_table writes it"
    )


def test_rows_of_logits_are_those_the_worker_asks_for(large: dict[str, GgufModel]) -> None:
    model = large["qwen3-14b"]
    n_scored = max(min(loading._SCORE_BYTES // (4 * model.n_vocab), loading._MAX_SCORE_ROWS), 1)
    assert n_output_rows(model, LoadSettings(n_ctx=4096, n_seqs=3)) == 3 + n_scored


def test_qwen3_14b_takes_what_its_operators_see_on_the_16_gb_card(large: dict[str, GgufModel]) -> None:
    card = CARDS["rtx-5060-ti-16gb"]
    plan = plan_memory(large["qwen3-14b"], LoadSettings(n_ctx=14384, n_seqs=2), card)
    assert plan.fits
    assert plan.gpu_bytes / 1e9 == pytest.approx(14.0, rel=0.05)
    assert plan.part("KV cache").gpu_bytes == 160 * 1024 * 2 * 14592
    assert plan.part("weights").host_bytes / MIB == pytest.approx(417.3, abs=1)  # the token embeddings


def test_gemma_4_keeps_its_embeddings_on_the_host_and_fits_the_12_gb_card(large: dict[str, GgufModel]) -> None:
    card = CARDS["rtx-3060-12gb"]
    plan = plan_memory(large["gemma-4-e4b"], LoadSettings(n_ctx=4096, n_seqs=2), card, large["projector"])
    assert plan.fits
    per_layer = large["gemma-4-e4b"].tensor("per_layer_token_embd.weight")
    tokens = large["gemma-4-e4b"].tensor("token_embd.weight")
    assert per_layer
    assert tokens
    assert plan.part("weights").host_bytes == pytest.approx(per_layer.n_bytes + tokens.n_bytes, rel=0.001)
    assert plan.part("weights").gpu_bytes > 2.5 * GIB  # the output matrix is a second copy of the token embeddings
    assert plan.part("image encoder").gpu_bytes > 300 * MIB
    assert plan.part("image encoder's buffers").gpu_bytes > 90 * MIB


def test_what_does_not_fit_gets_settings_that_do(large: dict[str, GgufModel]) -> None:
    card, settings = CARDS["rtx-5060-ti-16gb"], LoadSettings(n_ctx=14384, n_seqs=4)
    plan = plan_memory(large["qwen3-14b"], settings, card)
    assert not plan.fits
    changes: dict[str, Callable[[int], LoadSettings]] = {
        "q8_0": lambda _: replace(settings, type_k="q8_0", type_v="q8_0"),
        "3 sequences": lambda _: replace(settings, n_seqs=3),
        "n_ctx = ": lambda n: replace(settings, n_ctx=n),
        "n_gpu_layers = ": lambda n: replace(settings, n_gpu_layers=n),
    }
    for words, change in changes.items():
        said = next(line for line in plan.advice if words in line)
        number = re.match(r"\d+", said.partition(words)[2])
        fitting = plan_memory(large["qwen3-14b"], change(int(number[0]) if number else 0), card)
        assert fitting.fits
        assert f"{fitting.gpu_bytes / GIB:.2f} GiB" in said


def test_a_model_that_nothing_makes_fit_is_called_too_large(large: dict[str, GgufModel]) -> None:
    tiny_card = replace(CARDS["rtx-3060-12gb"], memory_bytes=GIB // 2)
    plan = plan_memory(large["qwen3-14b"], LoadSettings(n_ctx=4096), tiny_card)
    assert plan.margin_bytes is not None
    assert plan.margin_bytes < 0
    assert len(plan.advice) == 1
    assert "smaller model" in plan.advice[0]


def test_layers_left_on_the_cpu_take_their_cache_with_them(large: dict[str, GgufModel]) -> None:
    card, settings = CARDS["rtx-3060-12gb"], LoadSettings(n_ctx=8192, n_seqs=1)
    everything = plan_memory(large["qwen3-14b"], settings, card)
    half = plan_memory(large["qwen3-14b"], replace(settings, n_gpu_layers=21), card)
    assert half.part("KV cache").gpu_bytes == everything.part("KV cache").gpu_bytes / 2
    assert half.part("KV cache").host_bytes == half.part("KV cache").gpu_bytes
    assert half.part("matrices on their way").gpu_bytes > 0


def test_sliding_windows_do_not_grow_with_the_context(large: dict[str, GgufModel]) -> None:
    """Seven layers of Gemma 4 E4B see everything; 18 of the others share the cells of layers before them."""
    model = large["gemma-4-e4b"]
    kept = [
        plan_memory(model, LoadSettings(n_ctx=n, n_seqs=1), None).part("KV cache").host_bytes for n in (8192, 16384)
    ]
    n_full = sum(layer.has_kv and not layer.is_sliding for layer in model.layers)
    assert kept[1] - kept[0] == n_full * 2 * 2 * 512 * 2 * 8192


def test_quantised_values_without_flash_attention_are_refused(large: dict[str, GgufModel]) -> None:
    settings = LoadSettings(n_ctx=4096, type_v="q8_0", flash_attn="off")
    with pytest.raises(ValueError, match="flash attention"):
        plan_memory(large["qwen3-14b"], settings, None)


def test_a_context_that_nobody_knows_the_size_of_is_not_guessed(large: dict[str, GgufModel]) -> None:
    unknown = replace(large["qwen3-14b"], architecture="deepseek4")
    with pytest.raises(UnplannedModel, match="deepseek4"):
        plan_memory(unknown, LoadSettings(n_ctx=4096), None)


@pytest.mark.parametrize("shape", [(), (7,), (1 << 40, 1 << 40)])
@pytest.mark.parametrize("name", ["gemma-4-e4b", "qwen3-14b"])
def test_tensors_of_impossible_shapes_end_in_a_plan_all_the_same(
    large: dict[str, GgufModel], name: str, shape: tuple[int, ...]
) -> None:
    """A file may say anything of its tensors, and llama.cpp is the one to refuse it."""
    model = large[name]
    damaged = replace(model, tensors=tuple(replace(tensor, shape=shape) for tensor in model.tensors))
    settings = LoadSettings(n_ctx=4096, n_seqs=1, n_gpu_layers=8)
    plan = plan_memory(damaged, settings, CARDS["rtx-3060-12gb"], large["projector"])
    assert plan.gpu_bytes > 0


def test_an_image_encoder_may_say_anything_of_itself(large: dict[str, GgufModel]) -> None:
    projector = large["projector"]
    for key in (key for key in projector.metadata if key.startswith("clip.vision.")):
        for value in (0, -1, 1 << 60, "many", (1, 2), True):
            odd = replace(projector, metadata={**projector.metadata, key: value})
            plan = plan_memory(large["gemma-4-e4b"], LoadSettings(n_ctx=4096, n_seqs=1), None, odd)
            assert plan.host_bytes > 0


@pytest.mark.parametrize("wrong", [{"n_ctx": 0}, {"n_ctx": 1, "n_seqs": 0}, {"n_ctx": 1, "type_k": "q9"}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|no type"):
        LoadSettings(**wrong)  # type: ignore[arg-type]
