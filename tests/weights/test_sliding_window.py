"""Which layers have a window, held against llama.cpp's own log: it is asked about a header of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.weights.gguf_bytes import hyperparameters, model_file, number, real, string
from tests.weights.llama_view import views
from weights.gguf_header import DamagedHeader
from weights.gguf_model import GgufModel, read

WITH_EXPERTS = {
    "expert_count": 8,
    "expert_used_count": 2,
    "expert_feed_forward_length": 64,
    "expert_gating_func": 2,
    "expert_shared_count": 1,
    "expert_shared_feed_forward_length": 32,
    "interleave_moe_layer_step": 1,
    "leading_dense_block_count": 1,
}
EXPERTS = {
    "afmoe",
    "cohere2moe",
    "exaone-moe",
    "gpt-oss",
    "laguna",
    "llama4",
    "mellum",
    "mimo2",
    "smallthinker",
    "step35",
}
BY_PERIOD = [
    *("afmoe", "cohere2", "cohere2moe", "exaone-moe", "exaone4", "gemma-embedding", "gemma2", "gemma3", "gemma3n"),
    *("gpt-oss", "laguna", "llama4", "mellum", "modern-bert", "muse-glimmer", "olmo2", "plamo3", "smallthinker"),
]
LISTED = ["gemma4", "mimo2", "spark2_5", "step35"]
WITHOUT = ["llama", "phi3", "qwen2", "qwen3"]
EPSILONS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "logit_scale")
PATTERN = [True, False, False] * 4

Case = tuple[str, dict[str, int | Sequence[bool]]]


def cases() -> list[Case]:
    window = {"attention__sliding_window": 512}
    period, listed = {"attention__sliding_window_pattern": 3}, {"attention__sliding_window_pattern": PATTERN}
    ways: list[dict[str, Any]] = [{}, window, window | period, window | listed, window | {"nextn_predict_layers": 1}]
    of_each = [(architecture, way) for architecture in (*BY_PERIOD, *LISTED, *WITHOUT) for way in ways]
    return [*of_each, *(("exaone4", {"block_count": n, **way}) for n in (30, 64) for way in ways[:2])]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("headers")
    return [header(folder / f"{i}.gguf", *case) for i, case in enumerate(cases())]


@pytest.fixture(scope="module")
def seen(files: list[Path]) -> list[dict[str, Any]]:
    return views(files)


def header(path: Path, architecture: str, values: dict[str, int | Sequence[bool]]) -> Path:
    widths = {"attention__key_length_swa": 8, "attention__value_length_swa": 8} if architecture == "gemma4" else {}
    experts = WITH_EXPERTS if architecture in EXPERTS else {}
    pairs = hyperparameters(architecture, **{"block_count": 12, **widths, **experts, **values})
    pairs |= {f"{architecture}.{name}": real(1e-5) for name in EPSILONS}
    pairs |= {"tokenizer.ggml.model": string("none"), f"{architecture}.vocab_size": number(100)}
    pairs[f"{architecture}.embedding_length_per_layer_input"] = number(8)
    return model_file(path, pairs)


def test_llama_cpp_gives_every_layer_the_window_it_is_given_here(files: list[Path], seen: list[dict[str, Any]]) -> None:
    for case, file, its in zip(cases(), files, seen, strict=True):
        ours = model_or_none(file)
        if not its["is_sliding"]:
            assert ours is None, case
            continue
        assert ours is not None, case
        assert list(ours.is_sliding) == its["is_sliding"], case
        assert (ours.sliding_window or 0) == (its["n_swa"] if any(its["is_sliding"]) else 0), case
        assert ours.n_layers == its["n_layer_all"], case


def test_llama_cpp_took_a_header_of_every_architecture(seen: list[dict[str, Any]]) -> None:
    taken = {architecture for (architecture, _), its in zip(cases(), seen, strict=True) if its["is_sliding"]}
    assert taken == {*BY_PERIOD, *LISTED, *WITHOUT}


def model_or_none(path: Path) -> GgufModel | None:
    try:
        return read(path)
    except DamagedHeader:
        return None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attention__sliding_window": 512}, "does not list gemma4.attention.sliding_window_pattern"),
        ({"attention__sliding_window_pattern": PATTERN}, "does not say gemma4.attention.sliding_window"),
    ],
)
def test_a_window_that_is_half_told_is_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(DamagedHeader, match=message):
        read(header(tmp_path / "model.gguf", "gemma4", values))


def test_a_list_that_is_too_short_leaves_the_other_layers_without_a_window(tmp_path: Path) -> None:
    values: dict[str, Any] = {"attention__sliding_window": 512, "attention__sliding_window_pattern": [True]}
    assert read(header(tmp_path / "model.gguf", "gemma4", values)).is_sliding == (True,) + (False,) * 11
