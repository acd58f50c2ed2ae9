"""What llama.cpp is asked for when it loads a model, as far as memory depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from weights.gguf_tensors import TYPES

ALL_LAYERS: Final = -1

_CELLS_ALIGNMENT: Final = 256
_BLOCKS: Final[Mapping[str, tuple[int, int]]] = {name.lower(): (n, n_bytes) for name, n, n_bytes in TYPES.values()}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """`n_ctx` is the most tokens of one request. `n_ctx_total` cells are there for all sequences together, `n_ctx` for
    each when it is None. `unified`: they share one pool; None: as the worker does, only where there are fewer cells.
    A step gives `n_outputs` rows of logits at most; None: as many as the worker asks for.
    """

    n_ctx: int
    n_seqs: int = 4
    n_ctx_total: int | None = None
    unified: bool | None = None
    n_batch: int = 512
    n_ubatch: int = 512
    type_k: str = "f16"
    type_v: str = "f16"
    n_gpu_layers: int = ALL_LAYERS
    flash_attn: Literal["auto", "on", "off"] = "auto"
    n_outputs: int | None = None

    def __post_init__(self) -> None:
        counts = {"n_ctx": self.n_ctx, "n_seqs": self.n_seqs, "n_batch": self.n_batch, "n_ubatch": self.n_ubatch}
        if wrong := [name for name, count in counts.items() if count < 1]:
            raise ValueError(f"{wrong[0]} has to be at least 1")
        for type_ in (self.type_k, self.type_v):
            if type_ not in _BLOCKS:
                raise ValueError(f"{type_} is no type that a KV cache can be of")

    @property
    def is_unified(self) -> bool:
        if self.unified is not None:
            return self.unified
        return self.n_ctx_total is not None and self.n_ctx_total < self.n_ctx * self.n_seqs

    @property
    def n_streams(self) -> int:
        return 1 if self.is_unified else self.n_seqs

    @property
    def n_cells(self) -> int:
        """In each stream."""
        total = aligned(self._n_asked)
        return total if self.is_unified else aligned(total // self.n_seqs)

    @property
    def n_window_step(self) -> int:
        """Cells that a sliding window has for the tokens of one step."""
        return min(self.n_batch, self.n_ubatch, self._n_asked)

    @property
    def n_step_tokens(self) -> int:
        """Of the largest step: a whole number for each sequence."""
        return -(-self.n_window_step // self.n_seqs) * self.n_seqs

    @property
    def _n_asked(self) -> int:
        return max(self.n_ctx_total or self.n_ctx * self.n_seqs, self.n_ctx)


def aligned(n_cells: int) -> int:
    return -(-n_cells // _CELLS_ALIGNMENT) * _CELLS_ALIGNMENT


def row_bytes(type_: str, n_values: int) -> int:
    """Raises ValueError where the values are no whole number of the type's blocks."""
    n_in_block, n_block_bytes = _BLOCKS[type_]
    if n_values % n_in_block:
        raise ValueError(f"{type_} takes {n_in_block} values at a time, and this model keeps {n_values} for a token")
    return n_values // n_in_block * n_block_bytes
