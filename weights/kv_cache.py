"""What llama.cpp keeps of the tokens it has seen: keys and values in cells, or a state of fixed size.

`llama_kv_cache`, `llama_kv_cache_iswa` and `llama_memory_recurrent`. Layers with a sliding window have fewer cells:
the window (for each sequence, where they share a pool) and the tokens of one step.
"""

from __future__ import annotations

from typing import Final

from weights.gguf_layers import Layer
from weights.gguf_model import GgufModel
from weights.load_settings import LoadSettings, aligned, row_bytes

_F32_BYTES: Final = 4
_F16_BYTES: Final = 2
_LARGEST_BLOCK: Final = 256
_OTHERWISE_KEPT: Final = {
    "deepseek32", "deepseek4", "dflash", "dots3note", "glm-dsa", "glm5-next", "hy-v4", "minimax-m3", "qwen4exp",
}  # fmt: skip


class UnplannedModel(ValueError):
    """Nothing is known here of how llama.cpp keeps the past of such a model; the message names it."""


def n_cells(model: GgufModel, settings: LoadSettings, layer: Layer) -> int:
    """Cells of a layer in each stream."""
    if not layer.is_sliding or model.sliding_window is None:
        return settings.n_cells
    n_windows = settings.n_seqs if settings.is_unified else 1
    return aligned(min(settings.n_cells, model.sliding_window * n_windows + settings.n_window_step))


def cache_bytes(model: GgufModel, settings: LoadSettings, *, flash_attn: bool) -> tuple[tuple[int, int], ...]:
    """Of each layer its keys and values, and its recurrent state.

    Raises `UnplannedModel`, and ValueError for a KV type that cannot be.
    """
    if not flash_attn and row_bytes(settings.type_v, _LARGEST_BLOCK) < _LARGEST_BLOCK * _F16_BYTES:
        raise ValueError(f"values of type {settings.type_v} need flash attention, which is off for this model")
    if model.architecture in _OTHERWISE_KEPT:
        raise UnplannedModel(f"how llama.cpp keeps the context of a {model.architecture} is not known here")
    widest = max((width_v(model, layer) for layer in model.layers if layer.has_kv), default=0)
    state = _state_bytes(model) * settings.n_seqs
    return tuple(
        (
            _kv_bytes(model, settings, layer, widest, flash_attn) if layer.has_kv else 0,
            state if layer.is_recurrent else 0,
        )
        for layer in model.layers
    )


def width_k(layer: Layer) -> int:
    """Values of a token's key over all heads."""
    return layer.n_kv_heads * layer.head_dim_k


def width_v(model: GgufModel, layer: Layer) -> int:
    """As `width_k`; the compressed keys of DeepSeek's attention hold the values too."""
    is_compressed = model.get("attention.key_length_mla") is not None
    return 0 if is_compressed else layer.n_kv_heads * layer.head_dim_v


def _kv_bytes(model: GgufModel, settings: LoadSettings, layer: Layer, widest_v: int, flash_attn: bool) -> int:
    """Without flash attention the values lie transposed, all layers' as wide as the widest."""
    n_values = width_v(model, layer) if flash_attn else widest_v
    in_a_cell = row_bytes(settings.type_k, width_k(layer)) + row_bytes(settings.type_v, n_values)
    return in_a_cell * n_cells(model, settings, layer) * settings.n_streams


def _state_bytes(model: GgufModel) -> int:
    """Of one sequence in one recurrent layer (`n_embd_r` and `n_embd_s` of llama.cpp's hyperparameters)."""
    n_head = next((layer.n_heads for layer in model.layers if layer.n_heads), 0)
    if head_size := _number(model, "wkv.head_size"):
        shifts = _number(model, "token_shift_count", 2)
        return _F32_BYTES * model.n_embd * (shifts + head_size)
    if n_columns := _number(model, "shortconv.l_cache"):
        return _F32_BYTES * model.n_embd * (n_columns - 1)
    kernel, d_state = _number(model, "ssm.conv_kernel"), _number(model, "ssm.state_size")
    if head_dim := _number(model, "kda.head_dim"):
        return _F32_BYTES * n_head * head_dim * (3 * ((kernel or 4) - 1) + head_dim)
    d_inner, n_groups = _number(model, "ssm.inner_size"), _number(model, "ssm.group_count")
    columns = max(kernel - 1, 0) * (d_inner + 2 * n_groups * d_state)
    return _F32_BYTES * (columns + d_state * d_inner)


def _number(model: GgufModel, name: str, default: int = 0) -> int:
    value = model.get(name)
    return value if isinstance(value, int) and value >= 0 else default
