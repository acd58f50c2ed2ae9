"""What a model takes of a card's memory and of the host's under llama.cpp, part by part, before it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from weights.compute_graph import compute_graph, n_output_rows
from weights.flash_attention import uses_flash_attention
from weights.gguf_model import GgufModel
from weights.graph_allocator import Device, buffer_bytes
from weights.kv_cache import UnplannedModel, cache_bytes
from weights.load_settings import LoadSettings
from weights.memory_advice import advise
from weights.projector_memory import largest_image_bytes, trial_image_bytes
from weights.weight_placement import Placement, layer_tensors, place, weight_bytes

__all__ = ["LoadSettings", "MemoryPart", "MemoryPlan", "UnplannedModel", "plan_memory"]

MIB: Final = 1 << 20
_CUDA_CONTEXT_BYTES: Final = 450 * MIB
"""Kernels, cuBLAS and pools: what llama.cpp's own breakdown leaves over on an RTX 4090 (451 to 456 MiB, pull request
15860)."""
_DRIVER_SHARE: Final = 0.03
"""Of a card's memory, as NVML counts it, CUDA can have so much less: 2 % of an RTX 4090, 3 % of an RTX 3060."""
_OFFLOADED_ROWS: Final = 32
"""From so many tokens on, the matrices of layers on the host are copied to the card and computed there."""
_F32_BYTES: Final = 4


class CardMemory(Protocol):
    """A card of `weights.cards`, or what NVML says of one."""

    @property
    def memory_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class MemoryPart:
    name: str
    gpu_bytes: int
    host_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """`margin_bytes`: what stays free on the card, less than nothing where it is too small; None without a card.

    `advice`: settings under which the model would fit, each with what it then takes; none where it fits as it is.
    """

    parts: tuple[MemoryPart, ...]
    margin_bytes: int | None
    advice: tuple[str, ...] = ()

    @property
    def gpu_bytes(self) -> int:
        return sum(part.gpu_bytes for part in self.parts)

    @property
    def host_bytes(self) -> int:
        return sum(part.host_bytes for part in self.parts)

    @property
    def fits(self) -> bool:
        return self.margin_bytes is None or self.margin_bytes >= 0

    def part(self, name: str) -> MemoryPart:
        """The part of that name, with nothing in it where there is none."""
        return next((part for part in self.parts if part.name == name), MemoryPart(name, 0, 0))


Plan = Callable[[LoadSettings], MemoryPlan]


def plan_memory(
    model: GgufModel, settings: LoadSettings, card: CardMemory | None, projector: GgufModel | None = None
) -> MemoryPlan:
    """Without a card everything is on the host. `projector`: the mmproj file beside the model.

    Raises `UnplannedModel` for a model whose context nobody here knows the size of, and ValueError for a KV type that
    the model cannot have.
    """
    plan = _plan(model, settings, card, projector)
    if plan.fits:
        return plan
    advice = advise(settings, model.n_layers, lambda changed: _plan(model, changed, card, projector))
    return MemoryPlan(plan.parts, plan.margin_bytes, advice)


def _plan(model: GgufModel, settings: LoadSettings, card: CardMemory | None, projector: GgufModel | None) -> MemoryPlan:
    parts = _parts(model, settings, card, projector)
    if card is None:
        return MemoryPlan(parts, None)
    return MemoryPlan(parts, usable_bytes(card) - sum(part.gpu_bytes for part in parts))


def usable_bytes(card: CardMemory) -> int:
    """What CUDA has of a card's memory."""
    return card.memory_bytes - int(_DRIVER_SHARE * card.memory_bytes)


def _parts(
    model: GgufModel, settings: LoadSettings, card: CardMemory | None, projector: GgufModel | None
) -> tuple[MemoryPart, ...]:
    placement = place(model, settings.n_gpu_layers, has_card=card is not None)
    flash_attn = uses_flash_attention(model, settings, has_card=placement.has_gpu)
    weights = weight_bytes(model, placement)
    kept = cache_bytes(model, settings, flash_attn=flash_attn)
    compute = buffer_bytes(compute_graph(model, settings, placement, flash_attn=flash_attn))
    parts = [
        MemoryPart("weights", weights[Device.GPU], weights[Device.HOST]),
        *_context_parts(model, placement, kept),
        MemoryPart("compute buffers", compute[Device.GPU], compute[Device.HOST]),
        MemoryPart("logits", 0, _F32_BYTES * model.n_vocab * n_output_rows(model, settings)),
    ]
    if extra := _offload_bytes(model, settings, placement):
        parts.append(MemoryPart("matrices on their way", extra, 0))
    if projector is not None:
        parts += _projector_parts(projector, settings, on_gpu=card is not None)
    if card is not None:
        parts.append(MemoryPart("CUDA context", _CUDA_CONTEXT_BYTES, 0))
    return tuple(parts)


def _context_parts(model: GgufModel, placement: Placement, kept: tuple[tuple[int, int], ...]) -> list[MemoryPart]:
    """`kept`: of each layer its keys and values, and its recurrent state."""
    parts = []
    for kind, name in enumerate(("KV cache", "recurrent state")):
        on = dict.fromkeys(Device, 0)
        for device, n_bytes in zip(placement.layers, kept, strict=True):
            on[device] += n_bytes[kind]
        if any(on.values()):
            parts.append(MemoryPart(name, on[Device.GPU], on[Device.HOST]))
    return parts


def _offload_bytes(model: GgufModel, settings: LoadSettings, placement: Placement) -> int:
    """The largest matrix of a layer on the host, and what goes in and comes out of it."""
    if not placement.has_gpu or settings.n_step_tokens < _OFFLOADED_ROWS:
        return 0
    on_host = [tensors for tensors, on in zip(layer_tensors(model), placement.layers, strict=True) if on is Device.HOST]
    matrices = [tensor for tensors in on_host for tensor in tensors.values() if len(tensor.shape) > 1]
    rows = _F32_BYTES * settings.n_step_tokens
    return max((tensor.n_bytes + rows * sum(tensor.shape[:2]) for tensor in matrices), default=0)


def _projector_parts(projector: GgufModel, settings: LoadSettings, *, on_gpu: bool) -> list[MemoryPart]:
    trial = trial_image_bytes(projector)
    largest = largest_image_bytes(projector, min(settings.n_ubatch, settings.n_batch))
    n_bytes = {
        "image encoder": sum(tensor.n_bytes for tensor in projector.tensors),
        "image encoder's buffers": trial,
        "for larger images": largest - trial,
    }
    return [MemoryPart(name, n if on_gpu else 0, 0 if on_gpu else n) for name, n in n_bytes.items() if n]
