"""Whether llama.cpp computes attention in one pass, or by a matrix of all tokens and all cells."""

from __future__ import annotations

from typing import Final

from weights.gguf_model import GgufModel
from weights.load_settings import LoadSettings

_CUDA_HEADS: Final = {(n, n) for n in (40, 64, 72, 80, 96, 112, 128, 256, 512)} | {(192, 128), (320, 256), (576, 512)}
"""Widths of keys and values that CUDA has a kernel for (`ggml_cuda_get_best_fattn_kernel`)."""


def uses_flash_attention(model: GgufModel, settings: LoadSettings, *, has_card: bool) -> bool:
    """With "auto", wherever all layers can: on the host always."""
    if settings.flash_attn != "auto":
        return settings.flash_attn == "on"
    if not has_card:
        return True
    with_heads = [layer for layer in model.layers if layer.has_kv]
    return all((layer.head_dim_k, layer.head_dim_v) in _CUDA_HEADS for layer in with_heads)
