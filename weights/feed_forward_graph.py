"""The feed-forward part of one layer: dense, or a mixture of experts."""

from __future__ import annotations

from weights.graph_allocator import Result
from weights.graph_frame import Frame


def feed_forward(frame: Frame, index: int, norm: Result, n_rows: int) -> Result:
    """float32[n_rows, n_embd]."""
    if not frame.has(index, "ffn_down_exps.weight"):
        return _dense(frame, index, norm, n_rows, "")
    mixed = _experts(frame, index, norm, n_rows)
    if not frame.has(index, "ffn_down_shexp.weight"):
        return mixed
    shared = _dense(frame, index, norm, n_rows, "_shexp")
    return frame.graph.compute(frame.device(index), mixed.n_bytes, mixed, shared, in_place=True)


def _dense(frame: Frame, index: int, norm: Result, n_rows: int, kind: str) -> Result:
    """Gate and up may be one matrix twice as wide."""
    graph, device = frame.graph, frame.device(index)
    n_ff = frame.width_in(index, f"ffn_down{kind}.weight")
    inner = frame.rows(n_ff, n_rows)
    if frame.has(index, f"ffn_gate{kind}.weight"):
        gate = graph.compute(device, inner, norm)
        up = graph.compute(device, inner, norm)
        active = graph.compute(device, inner, gate, up)
    else:
        n_up = frame.width_out(index, f"ffn_up{kind}.weight")
        up = graph.compute(device, frame.rows(n_up, n_rows), norm)
        active = up if n_up == n_ff else graph.compute(device, inner, up)
    return graph.compute(device, frame.rows(frame.model.n_embd, n_rows), active)


def _experts(frame: Frame, index: int, norm: Result, n_rows: int) -> Result:
    """Each token goes through its own few experts; what they say is weighed and added up."""
    graph, device, n_embd = frame.graph, frame.device(index), frame.model.n_embd
    down = frame.tensors[index]["ffn_down_exps.weight"]
    n_ff, n_experts = (down.shape[0], down.shape[-1]) if down.shape else (0, 0)
    used = frame.model.get("expert_used_count")
    n_used = used if isinstance(used, int) and 0 < used <= n_experts else 1
    likely = graph.compute(device, frame.rows(n_experts, n_rows), norm)
    chosen = graph.compute(device, frame.rows(n_experts, n_rows), likely)
    weights = graph.compute(device, frame.rows(n_used, n_rows), views=(likely, chosen))
    inner = frame.rows(n_ff * n_used, n_rows)
    if frame.has(index, "ffn_gate_up_exps.weight"):
        both = graph.compute(device, 2 * inner, views=(norm, chosen))
        active = graph.compute(device, inner, views=(both,))
    else:
        up = graph.compute(device, inner, views=(norm, chosen))
        gate = graph.compute(device, inner, views=(norm, chosen))
        active = graph.compute(device, inner, gate, up)
    said = graph.compute(device, frame.rows(n_embd * n_used, n_rows), active, views=(chosen,))
    weighed = graph.compute(device, said.n_bytes, said, weights, in_place=True)
    return graph.compute(device, frame.rows(n_embd, n_rows), views=(weighed,))
