"""A GGUF file in the making: its keys and values, and weights drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from tests.models.vocabulary import Vocabulary

Float32Array = npt.NDArray[np.float32]

_QUIET = 0.1  # how loud the row of a token is that is not to be said, beside others


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """`n_vocab` pads the vocabulary with words that no text is made of; `weights` is the type of the matrices."""

    n_vocab: int = 0
    weights: str = "F32"
    seed: int = 1


class ModelFile:
    """Hyperparameters go to `writer`; tensors are drawn in the order they are asked for, so that a seed means a file.

    `matrix` keeps the size of what goes through it, `norm` scales by about one.
    """

    def __init__(self, architecture: str, name: str, options: ModelOptions) -> None:
        self.writer: Any = gguf.GGUFWriter(None, architecture)
        self.writer.add_name(name)
        self._type = gguf.GGMLQuantizationType[options.weights]
        self._random = np.random.default_rng(options.seed)

    def matrix(self, name: str, n_in: int, n_out: int, *, scale: float = 1.0) -> None:
        self._add(f"{name}.weight", self._draw(n_out, n_in, scale=scale * n_in**-0.5), self._type)

    def embedding(self, name: str, vocabulary: Vocabulary, n_embd: int, *, scale: float = 1.0) -> None:
        """A row for each token."""
        rows = self._draw(len(vocabulary.tokens), n_embd, scale=scale)
        rows[sorted(vocabulary.quiet)] *= _QUIET
        self._add(f"{name}.weight", rows, self._type)

    def table(self, name: str, n_rows: int, n_columns: int) -> None:
        """Rows that are only looked up."""
        self._add(f"{name}.weight", self._draw(n_rows, n_columns, scale=1.0), gguf.GGMLQuantizationType.F16)

    def random(self, name: str, *shape: int, scale: float) -> None:
        """A tensor of any shape, slowest dimension first."""
        self.vector(name, self._draw(*shape, scale=scale))

    def norm(self, name: str, n: int, *, scale: float = 1.0) -> None:
        self.vector(f"{name}.weight", scale * (1 + self._draw(n, scale=0.1)))

    def mixing_norm(self, name: str, n: int) -> None:
        """A norm that turns half of the signs: with tied embeddings a model would else say its last token again."""
        signs = np.where(self._random.random(n) < 0.5, -1, 1).astype(np.float32)
        self.vector(f"{name}.weight", signs)

    def bias(self, name: str, n: int) -> None:
        self.vector(f"{name}.bias", self._draw(n, scale=0.1))

    def vector(self, name: str, values: Float32Array) -> None:
        self.writer.add_tensor(name, values.astype(np.float32))

    def save(self, path: Path) -> None:
        self.writer.write_header_to_file(path)
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()

    def _draw(self, *shape: int, scale: float) -> Float32Array:
        return self._random.standard_normal(shape, dtype=np.float32) * np.float32(scale)

    def _add(self, name: str, values: Float32Array, type_: Any) -> None:
        """Rows too short for a block of `type_` stay as they are."""
        n_in_block, _ = gguf.GGML_QUANT_SIZES[type_]
        if values.shape[-1] % n_in_block:
            type_ = gguf.GGMLQuantizationType.F32
        self.writer.add_tensor(name, gguf.quants.quantize(values, type_), raw_dtype=type_)
