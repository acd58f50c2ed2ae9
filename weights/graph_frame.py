"""What the parts of a compute graph have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from weights.gguf_model import GgufModel
from weights.gguf_tensors import Tensor
from weights.graph_allocator import Device, Graph, Result
from weights.load_settings import LoadSettings
from weights.weight_placement import Placement

F32_BYTES: Final = 4
F16_BYTES: Final = 2
I32_BYTES: Final = 4
I64_BYTES: Final = 8


@dataclass(slots=True)
class Frame:
    """`inputs` are filled by the host and read by many layers; `tensors`: of each layer, by their names in it."""

    graph: Graph
    model: GgufModel
    settings: LoadSettings
    placement: Placement
    tensors: tuple[Mapping[str, Tensor], ...]
    flash_attn: bool
    inputs: dict[str, Result] = field(default_factory=dict)
    per_layer_rows: Result | None = None

    def rows(self, n_values: int, n_rows: int | None = None) -> int:
        """Bytes of a row of so many values for each token of the step, or `n_rows` of them."""
        return F32_BYTES * n_values * (self.settings.n_step_tokens if n_rows is None else n_rows)

    def device(self, index: int) -> Device:
        return self.placement.layers[index]

    def has(self, index: int, name: str) -> bool:
        return name in self.tensors[index]

    def width_in(self, index: int, name: str) -> int:
        """How many values a matrix takes; 0 where the layer has none of that name."""
        tensor = self.tensors[index].get(name)
        return tensor.shape[0] if tensor and tensor.shape else 0

    def width_out(self, index: int, name: str) -> int:
        tensor = self.tensors[index].get(name)
        return tensor.shape[1] if tensor and len(tensor.shape) > 1 else 0

    def feeds_forward(self, index: int) -> bool:
        return any(name.startswith("ffn_down") for name in self.tensors[index])
