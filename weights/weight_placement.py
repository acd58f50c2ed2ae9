"""Where llama.cpp puts the weights: tables that are only looked up stay in host memory, layers go to the card.

The last `n_gpu_layers` of all layers and the output go to the card, counted from the output. Where a model has no
output matrix, the token embeddings are there a second time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from weights.gguf_model import GgufModel
from weights.gguf_tensors import Tensor
from weights.graph_allocator import Device

_LAYER: Final = re.compile(r"blk\.(\d+)\.(.+)")
_LOOKED_UP: Final = {"token_embd.weight", "per_layer_token_embd.weight", "position_embd.weight", "token_types.weight"}
_OF_FIRST_LAYER: Final = {"per_layer_model_proj.weight", "per_layer_proj_norm.weight"}
_OF_EVERY_LAYER: Final = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_ALIGNMENT: Final = {Device.HOST: 64, Device.GPU: 128}


@dataclass(frozen=True, slots=True)
class Placement:
    """The device of each layer and of the output."""

    layers: tuple[Device, ...]
    output: Device

    @property
    def has_gpu(self) -> bool:
        return self.output is Device.GPU


def place(model: GgufModel, n_gpu_layers: int, *, has_card: bool) -> Placement:
    """A negative `n_gpu_layers` means all of them and the output."""
    n_layers = model.n_layers
    n_on_gpu = 0 if not has_card else n_layers + 1 if n_gpu_layers < 0 else n_gpu_layers
    first = n_layers + 1 - n_on_gpu
    layers = tuple(Device.GPU if i >= first else Device.HOST for i in range(n_layers))
    return Placement(layers, Device.GPU if n_on_gpu > 0 else Device.HOST)


def layer_tensors(model: GgufModel) -> tuple[Mapping[str, Tensor], ...]:
    """The tensors of each layer, by their names in it, such as `attn_q.weight`."""
    found: tuple[dict[str, Tensor], ...] = tuple({} for _ in model.layers)
    for tensor in model.tensors:
        match = _LAYER.fullmatch(tensor.name)
        if match and int(match[1]) < len(found):
            found[int(match[1])][match[2]] = tensor
    return found


def weight_bytes(model: GgufModel, placement: Placement) -> dict[Device, int]:
    """Bytes of weights on each device."""
    n_bytes = dict.fromkeys(Device, 0)
    for tensor in model.tensors:
        for device in _devices(tensor.name, placement):
            n_bytes[device] += -(-tensor.n_bytes // _ALIGNMENT[device]) * _ALIGNMENT[device]
    embeddings = model.tensor("token_embd.weight")
    if placement.has_gpu and embeddings and model.tensor("output.weight") is None:
        n_bytes[Device.GPU] += embeddings.n_bytes
    return n_bytes


def _devices(name: str, placement: Placement) -> tuple[Device, ...]:
    """More than one where a tensor is there for layers on both."""
    match = _LAYER.fullmatch(name)
    if match and int(match[1]) < len(placement.layers):
        return (placement.layers[int(match[1])],)
    if name in _LOOKED_UP:
        return (Device.HOST,)
    if name in _OF_FIRST_LAYER and placement.layers:
        return (placement.layers[0],)
    if name in _OF_EVERY_LAYER and placement.layers:
        return tuple(dict.fromkeys(placement.layers))
    return (placement.output,)
