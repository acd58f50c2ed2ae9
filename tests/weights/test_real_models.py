"""The files made here are as large as the real ones, which llama-bench prints beside its figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.weights.real_models import write
from weights.gguf_model import read

GIB = 1 << 30


@pytest.mark.parametrize(
    ("name", "mix", "gib", "n_billions"),
    [
        ("llama-2-7b", "Q4_0", 3.56, 6.74),
        ("llama-2-7b", "Q8_0", 6.67, 6.74),
        ("llama-2-7b", "F16", 12.55, 6.74),
        ("llama-2-13b", "Q4_K_M", 7.33, 13.02),
        ("llama-3-8b", "Q4_K_M", 4.58, 8.03),
        ("llama-3-8b", "Q5_K_M", 5.33, 8.03),
        ("llama-3.2-3b", "Q4_K_M", 1.87, 3.21),
        ("qwen2.5-7b", "Q4_K_M", 4.36, 7.62),
        ("qwen2.5-14b", "Q4_K_M", 8.37, 14.77),
        ("qwen2.5-14b", "Q5_K_M", 9.78, 14.77),
        ("qwen3-8b", "Q4_K_M", 4.68, 8.19),
        ("qwen3-14b", "Q4_K_M", 8.38, 14.77),
        ("qwen3-30b-a3b", "Q4_K_M", 17.28, 30.53),
        ("gpt-oss-20b", "MXFP4_MOE", 11.27, 20.91),
        ("gemma-3-4b", "Q4_K_M", 2.31, 3.88),
        ("gemma-4-e4b", "Q4_K_M", 4.95, 7.52),
    ],
)
def test_a_made_file_has_the_size_of_the_real_one(
    tmp_path: Path, name: str, mix: str, gib: float, n_billions: float
) -> None:
    model = read(write(name, mix, tmp_path / "model.gguf"))
    assert sum(tensor.n_bytes for tensor in model.tensors) / GIB == pytest.approx(gib, abs=0.006)
    assert model.n_parameters / 1e9 == pytest.approx(n_billions, abs=0.006)
