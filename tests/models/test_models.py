from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.models import MODELS, ModelOptions, write
from weights.gguf_header import Array, read_metadata

SMALL = [name for name in MODELS if name not in ("qwen3-0.6b", "gemma3-270m")]


@pytest.mark.parametrize("name", SMALL)
def test_a_model_is_small_and_the_same_every_time(name: str, tmp_path: Path) -> None:
    first, second = write(name, tmp_path / "a.gguf"), write(name, tmp_path / "b.gguf")
    assert (2**16 if name.endswith("-mmproj") else 2**18) < first.stat().st_size < 2**21
    assert hashlib.sha256(first.read_bytes()).digest() == hashlib.sha256(second.read_bytes()).digest()
    assert first.read_bytes() != write(name, second, ModelOptions(seed=2)).read_bytes()


def test_a_vocabulary_can_be_padded_and_its_matrices_quantised(tmp_path: Path) -> None:
    small, large = tmp_path / "small.gguf", tmp_path / "large.gguf"
    write("gemma4", small)
    write("gemma4", large, ModelOptions(n_vocab=5000, weights="Q4_0"))
    found = read_metadata(large, "tokenizer.ggml.tokens")["tokenizer.ggml.tokens"]
    assert isinstance(found, Array)
    assert found.n_elements == 5000
    assert large.stat().st_size < 1.5 * small.stat().st_size
