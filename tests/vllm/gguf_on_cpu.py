"""A plugin for vLLM, only for tests: what vllm-gguf-plugin 0.0.5 lacks on a CPU.

The real plugin rewrites the arguments, reads the configuration and the file and loads the weights. Its kernels want a
card, so every matrix is dequantised here once it is loaded, and torch computes with that. llama.cpp orders the rows of
q and k of a llama model in a way of its own, which this version of the plugin leaves so: they are put back.
"""

from __future__ import annotations

from typing import Any


def register() -> None:
    """Called in each process of vLLM, before or after the real plugin's own."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm_gguf_plugin.quantization.linear import GGUFLinearMethod
    from vllm_gguf_plugin.quantization.vocal_embeds import GGUFEmbeddingMethod
    from vllm_gguf_plugin.weights_adapter.default import GGUFWeightsAdapter

    finish_loading = GGUFLinearMethod.process_weights_after_loading

    def finish_and_dequantise(self: Any, layer: Any) -> None:
        finish_loading(self, layer)
        layer.dense_weight = _dense_weight(layer, self.params_dtype)

    GGUFLinearMethod.process_weights_after_loading = finish_and_dequantise
    GGUFLinearMethod.apply = _apply
    GGUFEmbeddingMethod.embedding = _embedding
    GGUFWeightsAdapter.transform_weight = _transform_weight


def _dense_weight(layer: Any, dtype: Any) -> Any:
    """float[rows, columns] of a layer; one that was merged from several has their rows in the order q, k, v."""
    import torch

    weight, types = layer.qweight, layer.qweight_type
    if not weight.shard_id:
        return _dequantise(weight.data, types.weight_type, dtype)
    parts = []
    for name in ("q", "k", "v") if "q" in weight.shard_id else weight.shard_id:
        first, end, n_bytes = weight.shard_offset_map[name]
        kind = types.shard_weight_type.get(name, types.weight_type)
        parts.append(_dequantise(weight.data[first:end, :n_bytes], kind, dtype))
    return torch.cat(parts)


def _dequantise(data: Any, kind: int, dtype: Any) -> Any:
    import torch
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    type_ = GGMLQuantizationType(int(kind))
    if type_.name in ("F32", "F16", "BF16"):
        return data.to(dtype)
    return torch.tensor(dequantize(data.contiguous().numpy(), type_)).to(dtype)


def _apply(_self: Any, layer: Any, x: Any, bias: Any = None) -> Any:
    import torch

    return torch.nn.functional.linear(x, layer.dense_weight, bias)


def _embedding(_self: Any, layer: Any, x: Any) -> Any:
    import torch

    return torch.nn.functional.embedding(x, layer.dense_weight)


def _transform_weight(self: Any, name: str, weight: Any) -> Any:
    """Rows of a quantised matrix are independent of each other, so they may be moved as they are."""
    config = self.config.get_text_config()
    if config.model_type != "llama" or not name.endswith("weight"):
        return weight
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    n_heads = next((n for layer, n in heads.items() if f".{layer}." in name), 0)
    if not n_heads:
        return weight
    n_pairs = weight.shape[0] // n_heads // 2
    pairs = weight.reshape(n_heads, n_pairs, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape).contiguous()
