"""The models by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import gguf

from tests.models.bert import bert
from tests.models.gemma import GEMMA3_270M, gemma3, gemma4
from tests.models.gguf_file import ModelFile, ModelOptions
from tests.models.mamba import mamba
from tests.models.projectors import gemma3_mmproj, gemma4_mmproj, qwen2vl_mmproj
from tests.models.qwen import QWEN3_0_6B, qwen2, qwen2vl, qwen3, qwen3_embedding

MODELS: Final[dict[str, Callable[[ModelOptions], ModelFile]]] = {
    "qwen3": qwen3,
    "qwen2": qwen2,
    "gemma4": gemma4,
    "gemma3": gemma3,
    "qwen2vl": qwen2vl,
    "gemma3-mmproj": gemma3_mmproj,
    "gemma4-mmproj": gemma4_mmproj,
    "qwen2vl-mmproj": qwen2vl_mmproj,
    "mamba": mamba,
    "bert": bert,
    "bert-cls": partial(bert, pooling=gguf.PoolingType.CLS),
    "qwen3-embedding": qwen3_embedding,
    # Of real size, for measuring: give them `n_vocab` and quantised `weights`.
    "qwen3-0.6b": partial(qwen3, shape=QWEN3_0_6B),
    "gemma3-270m": partial(gemma3, shape=GEMMA3_270M),
}


def write(name: str, path: Path, options: ModelOptions | None = None) -> Path:
    """Make the model `name` at `path`."""
    MODELS[name](options or ModelOptions()).save(path)
    return path
