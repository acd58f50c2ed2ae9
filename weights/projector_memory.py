"""Compute buffers of an image encoder (mmproj): a vision transformer over the patches of its trial image.

llama.cpp's `clip_graph::build_vit`. Projectors whose shapes are not known here are taken as square images of the
file's own size.
"""

from __future__ import annotations

from math import isqrt
from typing import Final

from weights.gguf_model import GgufModel
from weights.graph_allocator import Device, Graph, Result, buffer_bytes

_F32_BYTES: Final = 4
_F16_BYTES: Final = 2
_CHANNELS: Final = 3
_N_MERGE: Final = {"gemma3": 4, "gemma4v": 3, "qwen2vl_merger": 2, "qwen2.5vl_merger": 2, "qwen3vl_merger": 2}
_TRIAL_TOKENS: Final = {
    "gemma4v": 256,
    "qwen2vl_merger": 46 * 46,
    "qwen2.5vl_merger": 46 * 46,
    "qwen3vl_merger": 46 * 46,
}
_MERGE_KEYS: Final = ("clip.vision.projector.scale_factor", "clip.vision.spatial_merge_size")


def projector_compute_bytes(projector: GgufModel) -> int:
    """0 for a file without an image encoder."""
    n_embd, patch = _number(projector, "embedding_length"), _number(projector, "patch_size")
    if not n_embd or not patch:
        return 0
    size = _trial_size(projector, patch)
    n_patches = (size // patch) ** 2
    graph, rows = Graph(), _F32_BYTES * n_patches
    pixels = graph.input(_F32_BYTES * _CHANNELS * size * size)
    scaled = graph.compute(Device.GPU, pixels.n_bytes, pixels, in_place=True)
    columns = graph.compute(Device.GPU, _F16_BYTES * _CHANNELS * patch * patch * n_patches, scaled)
    convolved = graph.compute(Device.GPU, rows * n_embd, columns)
    hidden = graph.compute(Device.GPU, rows * n_embd, views=(convolved,))
    for _ in range(min(_number(projector, "block_count"), 2)):
        hidden = _layer(graph, projector, rows, n_embd, hidden)
    graph.compute(Device.GPU, rows * n_embd, views=(hidden,))
    return sum(buffer_bytes(graph).values())


def _layer(graph: Graph, projector: GgufModel, rows: int, n_embd: int, hidden: Result) -> Result:
    n_ff = _number(projector, "feed_forward_length")
    norm = graph.compute(Device.GPU, rows * n_embd, hidden)
    projected = [graph.compute(Device.GPU, rows * n_embd, norm) for _ in range(3)]
    turned = [graph.compute(Device.GPU, rows * n_embd, views=(part,)) for part in projected]
    halves = [graph.compute(Device.GPU, rows * n_embd // 2, views=(part,)) for part in turned[1:]]  # as float16
    mixed = graph.compute(Device.GPU, rows * n_embd, views=(turned[0], *halves))
    out = graph.compute(Device.GPU, rows * n_embd, views=(mixed,))
    hidden = graph.compute(Device.GPU, rows * n_embd, out, hidden, in_place=True)
    norm = graph.compute(Device.GPU, rows * n_embd, hidden)
    up = graph.compute(Device.GPU, rows * n_ff, norm)
    if projector.tensor("v.blk.0.ffn_gate.weight"):
        up = graph.compute(Device.GPU, rows * n_ff, up, graph.compute(Device.GPU, rows * n_ff, norm))
    down = graph.compute(Device.GPU, rows * n_embd, up)
    return graph.compute(Device.GPU, rows * n_embd, down, hidden, in_place=True)


def _trial_size(projector: GgufModel, patch: int) -> int:
    """Of the square image that the buffers are reserved for, in pixels."""
    kind = projector.metadata.get("clip.projector_type") or projector.metadata.get("clip.vision.projector_type")
    tokens = _TRIAL_TOKENS.get(kind) if isinstance(kind, str) else None
    if tokens is None:
        return _number(projector, "image_size")
    told = next((n for key in _MERGE_KEYS if isinstance(n := projector.metadata.get(key), int)), None)
    return isqrt(tokens) * patch * (told or _N_MERGE[str(kind)])


def _number(projector: GgufModel, name: str) -> int:
    value = projector.metadata.get(f"clip.vision.{name}")
    return value if isinstance(value, int) and 0 <= value <= 1 << 20 else 0
