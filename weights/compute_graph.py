"""The graph that llama.cpp reserves its compute buffers for: one step of `n_ubatch` prompt tokens with a full cache.

Sizes are bytes of float32 rows, one row for each token. Operations that overwrite what they read (scaling, adding a
bias, the product of a norm) are left out, as they need nothing. `llm_graph_context` in llama.cpp, model by model.
"""

from __future__ import annotations

from typing import Final

from weights.attention_graph import attention, attention_inputs
from weights.feed_forward_graph import feed_forward
from weights.gguf_model import GgufModel
from weights.graph_allocator import Device, Graph, Result
from weights.graph_frame import F32_BYTES, I32_BYTES, Frame
from weights.load_settings import LoadSettings
from weights.recurrent_graph import recurrent, recurrent_inputs
from weights.weight_placement import Placement, layer_tensors

_SCORED_BYTES: Final = 16 << 20
_MOST_SCORED_ROWS: Final = 64
_KEEP_ALL_ROWS: Final = {"gemma4"}  # the last norm is computed for every token
_SCALE_EMBEDDINGS: Final = {"gemma", "gemma2", "gemma3", "gemma3n", "gemma4"}


def n_output_rows(model: GgufModel, settings: LoadSettings) -> int:
    """Rows of logits that a step may give: one for each sequence, and some for prompts that are scored."""
    if settings.n_outputs is not None:
        return settings.n_outputs
    n_scored = _SCORED_BYTES // (F32_BYTES * model.n_vocab) if model.n_vocab else 1
    return settings.n_seqs + max(min(n_scored, _MOST_SCORED_ROWS), 1)


def compute_graph(model: GgufModel, settings: LoadSettings, placement: Placement, *, flash_attn: bool) -> Graph:
    frame = Frame(Graph(), model, settings, placement, layer_tensors(model), flash_attn)
    n_tokens, n_outputs = settings.n_step_tokens, min(n_output_rows(model, settings), settings.n_step_tokens)
    hidden = _embeddings(frame)
    frame.inputs.update(attention_inputs(frame) | recurrent_inputs(frame))
    out_ids = frame.graph.input(I32_BYTES * n_outputs)
    per_layer = _PerLayer(frame, hidden)
    for index in range(model.n_layers):
        if model.layers[index].is_for_guessing:
            break
        rows = _last_rows(frame, index, n_outputs)
        hidden = _layer(frame, index, hidden, rows, out_ids)
        if frame.has(index, "inp_gate.weight"):
            hidden = per_layer.add(index, hidden, rows)
    _output(frame, hidden, out_ids, n_tokens, n_outputs)
    return frame.graph


def _embeddings(frame: Frame) -> Result:
    """An image's embeddings could come in place of tokens: their input is there, and nothing reads it."""
    graph, n_tokens = frame.graph, frame.settings.n_step_tokens
    tokens = graph.input(I32_BYTES * n_tokens)
    graph.input(frame.rows(frame.model.n_embd))
    embeddings = graph.compute(Device.HOST, frame.rows(frame.model.n_embd), tokens)
    table = frame.model.tensor("per_layer_token_embd.weight")
    if table and table.shape:
        looked_up = graph.compute(Device.HOST, frame.rows(table.shape[0]), graph.input(I32_BYTES * n_tokens))
        frame.per_layer_rows = graph.compute(frame.device(0), looked_up.n_bytes, views=(looked_up,), in_place=True)
    if frame.model.architecture in _SCALE_EMBEDDINGS:
        return graph.compute(frame.device(0), embeddings.n_bytes, embeddings, in_place=True)
    return embeddings


def _last_rows(frame: Frame, index: int, n_outputs: int) -> int:
    """So many rows go on behind the attention of a layer: behind the last, those whose logits are wanted."""
    n_trunk = sum(not layer.is_for_guessing for layer in frame.model.layers)
    is_last = index == n_trunk - 1 and frame.model.architecture not in _KEEP_ALL_ROWS
    return n_outputs if is_last else frame.settings.n_step_tokens


def _layer(frame: Frame, index: int, hidden: Result, n_rows: int, out_ids: Result) -> Result:
    graph, device, layer = frame.graph, frame.device(index), frame.model.layers[index]
    n_embd = frame.model.n_embd
    norm = graph.compute(device, frame.rows(n_embd), hidden)
    mixed = recurrent(frame, index, norm) if layer.is_recurrent else attention(frame, index, norm)
    if n_rows < frame.settings.n_step_tokens:
        mixed = graph.compute(device, frame.rows(n_embd, n_rows), mixed, out_ids)
        hidden = graph.compute(device, frame.rows(n_embd, n_rows), hidden, out_ids)
        hidden = graph.compute(device, frame.rows(n_embd, n_rows), mixed, hidden, in_place=True)
    elif layer.is_recurrent:
        hidden = graph.compute(device, frame.rows(n_embd), hidden, views=(mixed,), in_place=True)
    else:
        hidden = graph.compute(device, frame.rows(n_embd), mixed, hidden, in_place=True)
    if not frame.feeds_forward(index):
        return hidden
    norm = graph.compute(device, frame.rows(n_embd, n_rows), hidden)
    out = feed_forward(frame, index, norm, n_rows)
    return graph.compute(device, frame.rows(n_embd, n_rows), out, hidden, in_place=True)


class _PerLayer:
    """Gemma 4's second embeddings: projected for all layers at once, where the first layer needs its part."""

    def __init__(self, frame: Frame, embeddings: Result) -> None:
        self._frame = frame
        self._embeddings = embeddings
        self._projected: Result | None = None

    def add(self, index: int, hidden: Result, n_rows: int) -> Result:
        frame, device = self._frame, self._frame.device(index)
        graph, n_gate = frame.graph, frame.width_out(index, "inp_gate.weight")
        gate = graph.compute(device, frame.rows(n_gate, n_rows), hidden)
        if self._projected is None:
            self._projected = self._project()
        gated = graph.compute(device, gate.n_bytes, gate, views=(self._projected,), in_place=True)
        projected = graph.compute(device, frame.rows(frame.model.n_embd, n_rows), gated)
        return graph.compute(device, projected.n_bytes, hidden, projected, in_place=True)

    def _project(self) -> Result:
        graph, device, looked_up = self._frame.graph, self._frame.device(0), self._frame.per_layer_rows
        n_bytes = looked_up.n_bytes if looked_up else 0
        projected = graph.compute(device, n_bytes, self._embeddings)
        norm = graph.compute(device, n_bytes, views=(projected,))
        added = graph.compute(device, n_bytes, norm, *((looked_up,) if looked_up else ()), in_place=True)
        return graph.compute(device, n_bytes, views=(added,))


def _output(frame: Frame, hidden: Result, out_ids: Result, n_tokens: int, n_outputs: int) -> None:
    graph, device, model = frame.graph, frame.placement.output, frame.model
    keeps_all = model.architecture in _KEEP_ALL_ROWS
    norm = graph.compute(device, hidden.n_bytes, hidden, in_place=True, is_output=True)
    if keeps_all:
        norm = graph.compute(device, frame.rows(model.n_embd, n_outputs), norm, out_ids, is_output=True)
    graph.compute(device, frame.rows(model.n_vocab, n_outputs), norm, is_output=True)
