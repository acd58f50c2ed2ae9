"""What llama.cpp reads and multiplies for one token: bytes of weights, of keys and values, tensors, operations.

Embeddings are looked up: one row is read, not the table; without an output matrix, the table is also that matrix. Of
experts only those that are used are read. Layers that share keys and values of others read those, and have no use for
matrices of their own. Layers for guessing ahead do no work here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from weights.gguf_layers import Layer
from weights.gguf_model import GgufModel
from weights.gguf_tensors import TYPES, Tensor

_LAYER: Final = re.compile(r"blk\.(\d+)\.(.+)")
_LOOKED_UP: Final = {"token_embd.weight", "per_layer_token_embd.weight", "position_embd.weight", "token_types.weight"}
_OUTPUT: Final = ("output.weight", "token_embd.weight")
_OF_EXPERTS: Final = re.compile(r".*_exps\.(weight|bias)")
_KEYS_AND_VALUES: Final = ("attn_k.", "attn_v.", "attn_k_norm.")
_FLOATS: Final = {"F32", "F16", "BF16", "F64"}
_BYTES: Final = {name.lower(): n_bytes / n for name, n, n_bytes in TYPES.values()}


@dataclass(frozen=True, slots=True)
class TokenWork:
    """For one token when decoding: `n_weight_bytes` of `n_tensors`, among them `n_expert_bytes`; `n_kv_bytes` of cache.

    For one token of a prompt: operations with matrices, by the type these are of (`float_flops`: BF16 and wider), and
    `attention_flops`; `expert_flops` are among the others. The output matrix is left out, as only the last token meets
    it. `n_step_bytes`: all weights that a step of many tokens reads, whichever experts they use.
    """

    n_weight_bytes: float
    n_expert_bytes: float
    n_kv_bytes: float
    n_tensors: int
    quantized_flops: float
    half_flops: float
    float_flops: float
    expert_flops: float
    attention_flops: float
    n_step_bytes: float


def token_work(
    model: GgufModel, *, decode_at: int, prompt_from: int, prompt_to: int, type_k: str = "f16", type_v: str = "f16"
) -> TokenWork:
    """One token decoded after `decode_at` others, and the mean token of a prompt from position `prompt_from` on.

    Raises ValueError for a type that is none, and for a file without the weights of a language model.
    """
    if unknown := {type_k, type_v} - _BYTES.keys():
        raise ValueError(f"{min(unknown)} is no type that a KV cache can be of")
    used = _used_share(model)
    read = [(tensor, used if _OF_EXPERTS.fullmatch(tensor.name) else 1.0) for tensor in _read(model)]
    matrices = [(tensor, share) for tensor, share in read if _is_matrix(tensor) and tensor.name not in _OUTPUT]
    experts = [(tensor, share) for tensor, share in read if share < 1]
    if not model.layers or not matrices:
        raise ValueError(f"{model.path.name} has no weights of a language model")
    return TokenWork(
        n_weight_bytes=sum(tensor.n_bytes * share for tensor, share in read),
        n_expert_bytes=sum(tensor.n_bytes * share for tensor, share in experts),
        n_kv_bytes=sum(_kv_bytes(model, layer, decode_at, type_k, type_v) for layer in model.layers),
        n_tensors=len(read),
        quantized_flops=sum(_flops(tensor) * share for tensor, share in matrices if tensor.type not in _FLOATS),
        half_flops=sum(_flops(tensor) * share for tensor, share in matrices if tensor.type == "F16"),
        float_flops=sum(_flops(tensor) * share for tensor, share in matrices if tensor.type in _FLOATS - {"F16"}),
        expert_flops=sum(_flops(tensor) * share for tensor, share in experts if _is_matrix(tensor)),
        attention_flops=sum(_attention_flops(model, layer, prompt_from, prompt_to) for layer in model.layers),
        n_step_bytes=sum(tensor.n_bytes for tensor, _ in read),
    )


def _read(model: GgufModel) -> list[Tensor]:
    """The tensors that a token meets, without those of which it takes one row."""
    tied = model.tensor("output.weight") is None
    return [
        tensor
        for tensor in model.tensors
        if (tensor.name not in _LOOKED_UP or (tied and tensor.name == "token_embd.weight"))
        and not _is_idle(model, tensor.name)
    ]


def _is_idle(model: GgufModel, name: str) -> bool:
    match = _LAYER.fullmatch(name)
    if match is None or int(match[1]) >= model.n_layers:
        return False
    layer = model.layers[int(match[1])]
    is_sharing = int(match[1]) >= model.n_layers - model.n_kv_shared_layers
    return layer.is_for_guessing or (is_sharing and match[2].startswith(_KEYS_AND_VALUES))


def _used_share(model: GgufModel) -> float:
    """Of all experts, those that one token uses."""
    n_experts, n_used = model.get("expert_count"), model.get("expert_used_count")
    if not isinstance(n_experts, int) or not isinstance(n_used, int) or not 0 < n_used < n_experts:
        return 1.0
    return n_used / n_experts


def _is_matrix(tensor: Tensor) -> bool:
    return len(tensor.shape) > 1 and tensor.name.endswith(".weight") and tensor.shape[1] > 1


def _flops(tensor: Tensor) -> int:
    return 2 * tensor.n_elements


def _kv_bytes(model: GgufModel, layer: Layer, n_past: int, type_k: str, type_v: str) -> float:
    is_compressed = model.get("attention.key_length_mla") is not None  # the keys hold the values too
    in_a_cell = layer.head_dim_k * _BYTES[type_k] + (0 if is_compressed else layer.head_dim_v * _BYTES[type_v])
    return _seen(model, layer, n_past) * layer.n_kv_heads * in_a_cell


def _attention_flops(model: GgufModel, layer: Layer, prompt_from: int, prompt_to: int) -> float:
    """Of the mean token between the two positions: products with keys and with values."""
    n_seen = _seen_on_average(model, layer, prompt_from, prompt_to)
    return 2 * n_seen * layer.n_heads * (layer.head_dim_k + layer.head_dim_v)


def _seen(model: GgufModel, layer: Layer, n_past: int) -> int:
    if (layer.is_recurrent and not layer.has_kv) or layer.is_for_guessing:
        return 0
    return min(n_past, model.sliding_window) if layer.is_sliding and model.sliding_window else n_past


def _seen_on_average(model: GgufModel, layer: Layer, prompt_from: int, prompt_to: int) -> float:
    """Positions up to the window see all before them, later ones the window."""
    last = max(prompt_to, prompt_from + 1)
    turn = min(max(_seen(model, layer, last), prompt_from), last)
    rising = (turn - prompt_from) * (_seen(model, layer, prompt_from) + _seen(model, layer, turn)) / 2
    return (rising + (last - turn) * _seen(model, layer, last)) / (last - prompt_from)
