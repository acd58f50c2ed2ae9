"""Attention of one layer, with the flash attention of llama.cpp or by a matrix of all tokens and all cells."""

from __future__ import annotations

from typing import Final

from weights.gguf_layers import Layer
from weights.graph_allocator import Device, Result
from weights.graph_frame import F16_BYTES, F32_BYTES, I32_BYTES, I64_BYTES, Frame
from weights.kv_cache import n_cells, width_k, width_v

_POSITION_DIMS: Final = {"qwen2vl": 4, "qwen3vl": 4, "qwen3vlmoe": 4, "qwen35": 4, "qwen35moe": 4}
_UNROTATED_TYPES: Final = {"f32", "f16", "bf16"}
_ROTATED_HEADS: Final = 64  # keys and values of quantised types are mixed within heads of a multiple of this


def attention_inputs(frame: Frame) -> dict[str, Result]:
    """Positions, and of each kind of layer the mask and the cells that the new tokens go to."""
    graph, n_tokens = frame.graph, frame.settings.n_step_tokens
    n_dims = _POSITION_DIMS.get(frame.model.architecture, 1)
    inputs = {"positions": graph.input(I32_BYTES * n_tokens * n_dims)}
    with_cache = [layer for layer in frame.model.layers if layer.has_kv]
    widest = max((width_v(frame.model, layer) for layer in with_cache), default=0)
    mask_bytes = F16_BYTES if frame.flash_attn else F32_BYTES
    for is_sliding in {layer.is_sliding for layer in with_cache}:
        layer = next(layer for layer in with_cache if layer.is_sliding == is_sliding)
        cells = n_cells(frame.model, frame.settings, layer)
        inputs[f"mask {is_sliding}"] = graph.input(mask_bytes * cells * n_tokens)
        inputs[f"k rows {is_sliding}"] = graph.input(I64_BYTES * n_tokens)
        inputs[f"v rows {is_sliding}"] = graph.input(I64_BYTES * n_tokens * (1 if frame.flash_attn else widest))
    return inputs


def attention(frame: Frame, index: int, norm: Result) -> Result:
    """float32[n_tokens, n_embd] of a layer's normed input."""
    graph, device, layer = frame.graph, frame.device(index), frame.model.layers[index]
    n_query = frame.rows(layer.n_heads * layer.head_dim_k)
    is_gated = frame.rows(frame.width_out(index, "attn_q.weight")) == 2 * n_query
    gate = graph.compute(device, 2 * n_query, norm) if is_gated else None
    rows = _project(frame, index, norm, gate)
    query = rows["q"]
    for kind in ("k", "v") if layer.has_kv else ():
        graph.store(device, rows[kind], frame.inputs[f"{kind} rows {layer.is_sliding}"])
    mixed = _flash(frame, layer, device, query) if frame.flash_attn else _by_matrix(frame, layer, device, query)
    if _is_rotated(frame, layer, frame.settings.type_v):
        mixed = graph.compute(device, mixed.n_bytes, views=(mixed,))
    if gate is not None:
        gate = graph.compute(device, n_query, views=(gate,))
        mixed = graph.compute(device, n_query, gate, views=(mixed,), in_place=True)
    return graph.compute(device, frame.rows(frame.model.n_embd), views=(mixed,))


def _project(frame: Frame, index: int, norm: Result, query_and_gate: Result | None) -> dict[str, Result]:
    """Query, and where the layer keeps them key and value, as they go into the attention.

    `query_and_gate`: where what comes out of the attention is gated, both come from one matrix.
    """
    graph, device, layer = frame.graph, frame.device(index), frame.model.layers[index]
    widths = {"q": layer.n_heads * layer.head_dim_k, "k": width_k(layer), "v": layer.n_kv_heads * layer.head_dim_v}
    fused = frame.width_out(index, "attn_qkv.weight")
    together = graph.compute(device, frame.rows(fused), norm) if fused else None
    keeps_order = any(layer.is_sliding for layer in frame.model.layers)
    order = ("q", "k", "v") if keeps_order else ("q", "v", "k")
    results: dict[str, Result] = {}
    for kind in order if layer.has_kv else ("q",):
        source = query_and_gate if kind == "q" and query_and_gate else together
        results[kind] = _head_rows(frame, index, kind, widths[kind], source or norm, is_fused=source is not None)
        type_ = frame.settings.type_v if kind == "v" else frame.settings.type_k
        if _is_rotated(frame, layer, type_):
            results[kind] = graph.compute(device, frame.rows(widths[kind]), views=(results[kind],))
    return results


def _head_rows(frame: Frame, index: int, kind: str, width: int, source: Result, *, is_fused: bool) -> Result:
    """One of query, key and value: projected, normed where the layer does, turned by its position."""
    graph, device, n_bytes = frame.graph, frame.device(index), frame.rows(width)
    projected = source if is_fused else graph.compute(device, n_bytes, source)
    is_normed = frame.has(index, f"attn_{kind}_norm.weight") or (kind == "v" and frame.model.architecture == "gemma4")
    if kind == "v" and not is_normed:
        return projected
    turned = () if kind == "v" else (frame.inputs["positions"],)
    return graph.compute(device, n_bytes, *turned, views=(projected,))


def _is_rotated(frame: Frame, layer: Layer, type_: str) -> bool:
    """Quantised keys and values are mixed by a fixed matrix first, where all heads are of one such width."""
    if type_ in _UNROTATED_TYPES:
        return False
    alike = [other for other in frame.model.layers if other.has_kv and other.is_sliding == layer.is_sliding]
    widths = {other.head_dim_k for other in alike}
    return len(widths) == 1 and widths.pop() % _ROTATED_HEADS == 0


def _flash(frame: Frame, layer: Layer, device: Device, query: Result) -> Result:
    """Keys and values are read as float16: what is float32 is cast, and CUDA's kernels for prompts keep a copy of the
    rest."""
    graph, settings = frame.graph, frame.settings
    cells = n_cells(frame.model, settings, layer) * settings.n_streams
    widths = ((settings.type_k, width_k(layer)), (settings.type_v, width_v(frame.model, layer)))
    casts = tuple(graph.compute(device, F16_BYTES * width * cells) for type_, width in widths if type_ == "f32")
    n_bytes = frame.rows(layer.n_heads * layer.head_dim_v)
    if device is Device.GPU:
        n_bytes += sum(F16_BYTES * width * cells for type_, width in widths if type_ not in ("f16", "f32"))
    return graph.compute(device, n_bytes, frame.inputs[f"mask {layer.is_sliding}"], *casts, views=(query,))


def _by_matrix(frame: Frame, layer: Layer, device: Device, query: Result) -> Result:
    graph, n_out = frame.graph, layer.n_heads * layer.head_dim_v
    cells = n_cells(frame.model, frame.settings, layer)
    scores = graph.compute(device, frame.rows(cells * layer.n_heads), views=(query,))
    weights = graph.compute(device, scores.n_bytes, scores, frame.inputs[f"mask {layer.is_sliding}"], in_place=True)
    mixed = graph.compute(device, frame.rows(n_out), weights)
    return graph.compute(device, mixed.n_bytes, views=(mixed,))
