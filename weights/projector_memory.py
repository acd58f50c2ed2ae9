"""Compute buffers of an image encoder (mmproj): a vision transformer over the patches of one square image.

llama.cpp reserves them for a trial image when it loads, and grows them when a larger one comes. The graph is that of
`clip_graph::build_vit`, with flash attention. Projectors whose sizes are not known here take images of the file's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Final

from weights.gguf_model import GgufModel
from weights.graph_allocator import Device, Graph, Result, buffer_bytes

_F32_BYTES: Final = 4
_F16_BYTES: Final = 2
_I32_BYTES: Final = 4
_CHANNELS: Final = 3
_PLACE_DIMS: Final = 4
_MOST_LAYERS: Final = 128
_MERGE_KEYS: Final = ("clip.vision.projector.scale_factor", "clip.vision.spatial_merge_size")
_ALSO_TURNED: Final = {"pixtral", "kimivl"}


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Tokens of the trial image and of the largest; `n_merged` patches on a side of the square that makes a token.

    `at_once`: all tokens of an image are computed in one step, so that there are no more than a step has.
    """

    trial: int
    most: int
    n_merged: int
    at_once: bool = False


_QWEN: Final = _Sizes(46 * 46, 4096, 2)
_SIZES: Final[Mapping[str, _Sizes]] = {
    "gemma4v": _Sizes(256, 1120, 3, at_once=True),
    "qwen2vl_merger": _QWEN,
    "qwen2.5vl_merger": _QWEN,
    "qwen3vl_merger": _QWEN,
}


def trial_image_bytes(projector: GgufModel) -> int:
    """What is reserved at load; 0 for a file without an image encoder."""
    sizes = _SIZES.get(_kind(projector))
    if sizes is None:
        return _bytes(projector, _number(projector, "image_size"))
    return _bytes(projector, _side(projector, sizes, sizes.trial))


def largest_image_bytes(projector: GgufModel, n_step_tokens: int) -> int:
    """The buffers after the largest image that the encoder takes."""
    sizes = _SIZES.get(_kind(projector))
    if sizes is None:
        return trial_image_bytes(projector)
    most = min(sizes.most, n_step_tokens) if sizes.at_once else sizes.most
    return max(_bytes(projector, _side(projector, sizes, most)), trial_image_bytes(projector))


def _side(projector: GgufModel, sizes: _Sizes, n_tokens: int) -> int:
    """Of a square image, in pixels."""
    told = next((n for key in _MERGE_KEYS if isinstance(n := projector.metadata.get(key), int) and n > 0), None)
    return isqrt(n_tokens) * _number(projector, "patch_size") * (told or sizes.n_merged)


def _bytes(projector: GgufModel, side: int) -> int:
    n_embd, patch = _number(projector, "embedding_length"), _number(projector, "patch_size")
    if not n_embd or not patch:
        return 0
    n_patches = (side // patch) ** 2
    graph, rows = Graph(), _F32_BYTES * n_patches
    pixels = graph.input(_F32_BYTES * _CHANNELS * side * side)
    if _is_turned(projector):
        graph.input(_PLACE_DIMS * _I32_BYTES * n_patches)
    hidden = _patches(graph, projector, pixels, patch * patch * n_patches, rows * n_embd)
    for _ in range(min(_number(projector, "block_count"), _MOST_LAYERS)):
        hidden = _layer(graph, projector, rows, n_embd, hidden)
    graph.compute(Device.HOST, rows * n_embd, views=(hidden,))
    return buffer_bytes(graph)[Device.HOST]


def _patches(graph: Graph, projector: GgufModel, pixels: Result, n_pixels: int, n_bytes: int) -> Result:
    """Qwen2-VL's encoder, made for video, has a second matrix for the second of two images."""
    convolved = []
    n_convolutions = 2 if projector.tensor("v.patch_embd.weight.1") else 1
    for _ in range(n_convolutions):
        columns = graph.compute(Device.HOST, _F16_BYTES * _CHANNELS * n_pixels, pixels)
        convolved.append(graph.compute(Device.HOST, n_bytes, columns))
    return graph.compute(Device.HOST, n_bytes, views=tuple(convolved))


def _layer(graph: Graph, projector: GgufModel, rows: int, n_embd: int, hidden: Result) -> Result:
    n_ff = _number(projector, "feed_forward_length")
    norm = graph.compute(Device.HOST, rows * n_embd, hidden)
    query, key, value = (_head_rows(graph, projector, rows * n_embd, norm) for _ in range(3))
    halves = [graph.compute(Device.HOST, rows * n_embd // 2, views=(part,)) for part in (key, value)]  # as float16
    mixed = graph.compute(Device.HOST, rows * n_embd, views=(query, *halves))
    out = graph.compute(Device.HOST, rows * n_embd, views=(mixed,))
    hidden = graph.compute(Device.HOST, rows * n_embd, out, hidden, in_place=True)
    norm = graph.compute(Device.HOST, rows * n_embd, hidden)
    up = graph.compute(Device.HOST, rows * n_ff, norm)
    if projector.tensor("v.blk.0.ffn_gate.weight"):
        up = graph.compute(Device.HOST, rows * n_ff, up, graph.compute(Device.HOST, rows * n_ff, norm))
    down = graph.compute(Device.HOST, rows * n_embd, up)
    return graph.compute(Device.HOST, rows * n_embd, down, hidden, in_place=True)


def _head_rows(graph: Graph, projector: GgufModel, n_bytes: int, norm: Result) -> Result:
    """Query, key or value of all patches; most projectors norm each head, or turn it by its patch's place."""
    projected = graph.compute(Device.HOST, n_bytes, norm)
    if _is_turned(projector) or projector.tensor("v.blk.0.attn_q_norm.weight"):
        return graph.compute(Device.HOST, n_bytes, views=(projected,))
    return projected


def _is_turned(projector: GgufModel) -> bool:
    return _kind(projector) in {*_SIZES, *_ALSO_TURNED}


def _kind(projector: GgufModel) -> str:
    kind = projector.metadata.get("clip.projector_type") or projector.metadata.get("clip.vision.projector_type")
    return kind if isinstance(kind, str) else ""


def _number(projector: GgufModel, name: str) -> int:
    value = projector.metadata.get(f"clip.vision.{name}")
    return value if isinstance(value, int) and 0 <= value <= 1 << 20 else 0
