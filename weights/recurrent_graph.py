"""A layer that keeps a state of fixed size: Mamba, gated delta nets (Qwen3-Next, Qwen3.5), short convolutions."""

from __future__ import annotations

from weights.graph_allocator import Result
from weights.graph_frame import F32_BYTES, I32_BYTES, Frame


def recurrent_inputs(frame: Frame) -> dict[str, Result]:
    if not any(layer.is_recurrent for layer in frame.model.layers):
        return {}
    return {"states": frame.graph.input(I32_BYTES * frame.settings.n_seqs)}


def recurrent(frame: Frame, index: int, norm: Result) -> Result:
    """float32[n_tokens, n_embd] of a layer's normed input."""
    if frame.has(index, "attn_gate.weight") and frame.has(index, "attn_qkv.weight"):
        return _delta_net(frame, index, norm)
    return _mamba(frame, index, norm)


def _delta_net(frame: Frame, index: int, norm: Result) -> Result:
    graph, device = frame.graph, frame.device(index)
    states = frame.inputs["states"]
    width, value = frame.width_out(index, "attn_qkv.weight"), frame.width_in(index, "ssm_out.weight")
    key = max(width - value, 0) // 2
    columns = graph.compute(device, _columns_bytes(frame, width), states)
    projected = graph.compute(device, frame.rows(width), norm)
    joined = graph.compute(device, frame.rows(width) + columns.n_bytes, views=(columns, projected))
    state = graph.compute(device, _state_bytes(frame, value), states)
    convolved = graph.compute(device, frame.rows(width), joined)
    rows = [graph.compute(device, frame.rows(key), views=(convolved,)) for _ in range(2)]
    scanned = graph.compute(device, frame.rows(value) + state.n_bytes, *rows, views=(convolved, state))
    normed = graph.compute(device, frame.rows(value), views=(scanned,))
    gate = graph.compute(device, frame.rows(value), views=(graph.compute(device, frame.rows(value), norm),))
    gated = graph.compute(device, frame.rows(value), normed, gate, in_place=True)
    return graph.compute(device, frame.rows(frame.model.n_embd), views=(gated,))


def _mamba(frame: Frame, index: int, norm: Result) -> Result:
    """What is neither takes about as much: it has projections as wide, and a convolution of them."""
    graph, device = frame.graph, frame.device(index)
    states = frame.inputs["states"]
    width = _inner_width(frame, index)
    projected = graph.compute(device, frame.rows(2 * width), norm, states)
    joined = graph.compute(device, frame.rows(width) + _columns_bytes(frame, width), views=(projected,))
    convolved = graph.compute(device, frame.rows(width), joined)
    step = graph.compute(device, frame.rows(width), views=(convolved,))
    scanned = graph.compute(device, frame.rows(width), step, views=(convolved,))
    gate = graph.compute(device, frame.rows(width), views=(projected,))
    skipped = graph.compute(device, frame.rows(width), convolved, in_place=True)
    added = graph.compute(device, frame.rows(width), skipped, views=(scanned,), in_place=True)
    gated = graph.compute(device, frame.rows(width), gate, added)
    return graph.compute(device, frame.rows(frame.model.n_embd), gated)


def _inner_width(frame: Frame, index: int) -> int:
    for name in ("ssm_out.weight", "shortconv.out_proj.weight", "time_mix_output.weight"):
        if width := frame.width_in(index, name):
            return width
    return frame.model.n_embd


def _state_bytes(frame: Frame, width: int) -> int:
    d_state = frame.model.get("ssm.state_size")
    return F32_BYTES * frame.settings.n_seqs * width * (d_state if isinstance(d_state, int) and d_state > 0 else 0)


def _columns_bytes(frame: Frame, width: int) -> int:
    kernel = frame.model.get("ssm.conv_kernel")
    n_columns = kernel - 1 if isinstance(kernel, int) and kernel > 0 else 3
    return F32_BYTES * n_columns * width * frame.settings.n_seqs
