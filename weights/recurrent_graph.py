"""A layer that keeps a state of fixed size: Mamba, short convolutions, linear attention."""

from __future__ import annotations

from weights.graph_allocator import Result
from weights.graph_frame import F32_BYTES, I32_BYTES, Frame


def recurrent_inputs(frame: Frame) -> dict[str, Result]:
    if not any(layer.is_recurrent for layer in frame.model.layers):
        return {}
    return {"states": frame.graph.input(I32_BYTES * frame.settings.n_seqs)}


def recurrent(frame: Frame, index: int, norm: Result) -> Result:
    """float32[n_tokens, n_embd] of a layer's normed input.

    As Mamba computes it; what else there is takes about as much as its widest projections and their convolution.
    """
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


def _columns_bytes(frame: Frame, width: int) -> int:
    kernel = frame.model.get("ssm.conv_kernel")
    n_columns = kernel - 1 if isinstance(kernel, int) and kernel > 0 else 3
    return F32_BYTES * n_columns * width * frame.settings.n_seqs
