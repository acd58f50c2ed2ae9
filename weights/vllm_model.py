"""What vLLM makes of a checkpoint, as far as memory depends on it: bytes of weights, and what a token leaves behind.

From the `config.json` of a checkpoint, or from the header of a GGUF. vLLM quantises matrices and leaves embeddings,
norms and an output matrix as they are; of a GGUF it keeps every tensor as the file has it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from weights.gguf_model import GgufModel

_BYTES_16: Final = 2
_MOST: Final = 1 << 32
_MOST_LAYERS: Final = 512
_MOST_CONFIG_BYTES: Final = 1 << 24
_NF4_BYTES: Final = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of a value in bitsandbytes' NF4: four bits, and for 64 values a scale of eight bits, for 256 of those one of 32."""
_SCALE_BYTES: Final = 2.5
"""Of a group in AWQ and its like: a scale of 16 bits and a zero point of four."""
_DEFAULT_GROUP: Final = 128
_GROUPED: Final = {
    "awq", "awq_marlin", "auto_awq", "gptq", "gptq_marlin", "auto_gptq", "compressed-tensors",
}  # fmt: skip


class UnreadableConfig(ValueError):
    """A `config.json` that vLLM could make nothing of; the message says why."""


@dataclass(frozen=True, slots=True)
class KvLayer:
    """One layer that keeps keys and values of its own: `width` values for a token, of keys and values together."""

    width: int
    sliding_window: int | None


@dataclass(frozen=True, slots=True)
class VllmModel:
    """`weight_bytes` by what they are; `n_ff` is the width that a token takes inside a layer."""

    name: str
    weight_bytes: Mapping[str, int]
    kv_layers: tuple[KvLayer, ...]
    n_embd: int
    n_ff: int
    n_vocab: int
    sees_images: bool = False


def from_gguf(model: GgufModel) -> VllmModel:
    widths = [layer.n_kv_heads * (layer.head_dim_k + layer.head_dim_v) for layer in model.layers]
    windows = [model.sliding_window if layer.is_sliding else None for layer in model.layers]
    layers = zip(widths, windows, model.layers, strict=True)
    return VllmModel(
        name=model.name or model.path.name,
        weight_bytes={"weights (as in the GGUF)": sum(tensor.n_bytes for tensor in model.tensors)},
        kv_layers=tuple(KvLayer(width, window) for width, window, layer in layers if layer.has_kv),
        n_embd=model.n_embd,
        n_ff=max((layer.n_ff for layer in model.layers), default=0),
        n_vocab=model.n_vocab,
    )


def read_config(path: Path, quantization: str | None = None) -> VllmModel:
    """Of a folder with a `config.json`, or of that file. `quantization` as in `vllm serve`, else what the file says.

    Raises `UnreadableConfig`, and OSError where the file cannot be read.
    """
    file = path / "config.json" if path.is_dir() else path
    if file.stat().st_size > _MOST_CONFIG_BYTES:
        raise UnreadableConfig(f"{file.name} is too large for a model's configuration")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnreadableConfig(f"{file.name} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise UnreadableConfig(f"{file.name} is no JSON object")
    return _Config(config).model(file.parent.name, quantization)


class _Config:
    """Numbers of a `config.json`; those of a model that sees are under `text_config`."""

    def __init__(self, config: dict[str, Any]) -> None:
        text = config.get("text_config")
        self._all = config
        self._text: dict[str, Any] = text if isinstance(text, dict) else config

    def model(self, name: str, quantization: str | None) -> VllmModel:
        n_embd, n_layers = self._number("hidden_size"), self._number("num_hidden_layers")
        if n_layers > _MOST_LAYERS:
            raise UnreadableConfig(f"a model cannot have {n_layers} layers")
        n_vocab = self._number("vocab_size")
        n_ff = self._number("intermediate_size")
        value_bytes = self._value_bytes(quantization)
        vision = self._vision_values()
        weights = {
            "embeddings": _BYTES_16 * n_embd * n_vocab,
            "embeddings of each layer": _BYTES_16 * self._per_layer_embeddings(n_layers, n_vocab),
            "output matrix": 0 if self._is_tied() else _BYTES_16 * n_embd * n_vocab,
            "matrices": int(value_bytes * (self._matrix_values(n_embd, n_layers) + vision)),
        }
        return VllmModel(
            name=name,
            weight_bytes={part: n_bytes for part, n_bytes in weights.items() if n_bytes},
            kv_layers=self._kv_layers(n_layers),
            n_embd=n_embd,
            n_ff=n_ff,
            n_vocab=n_vocab,
            sees_images=vision > 0,
        )

    def _value_bytes(self, quantization: str | None) -> float:
        """Of one value of a matrix. `quantization` wins over what the file says."""
        told = self._all.get("quantization_config")
        told = told if isinstance(told, dict) else {}
        method = quantization or told.get("quant_method")
        if method is None:
            return _BYTES_16
        if method == "bitsandbytes":
            return 1.0 if told.get("load_in_8bit") else _NF4_BYTES
        if method == "fp8":
            return 1.0
        if method not in _GROUPED:
            raise UnreadableConfig(f"how much memory a quantisation by {str(method)[:40]!r} takes is not known here")
        bits, group = _grouping(told)
        return bits / 8 + (_SCALE_BYTES / group if group > 0 else 0)

    def _matrix_values(self, n_embd: int, n_layers: int) -> int:
        n_experts = self._number("num_experts", 0) or self._number("num_local_experts", 0)
        n_ff = self._number("intermediate_size")
        n_inside = n_experts * self._number("moe_intermediate_size", n_ff) if n_experts else n_ff
        per_layer = self._number("hidden_size_per_layer_input", 0)
        values = 2 * n_embd * per_layer * n_layers + n_embd * per_layer * n_layers
        for index in range(n_layers):
            n_heads, n_kv_heads, head = self._heads(index)
            values += 2 * n_embd * n_heads * head + 3 * n_embd * n_inside + n_embd * n_experts
            values += 2 * n_embd * n_kv_heads * head if self._has_kv(index, n_layers) else 0
        return values

    def _vision_values(self) -> int:
        vision = self._all.get("vision_config")
        if not isinstance(vision, dict):
            return 0
        n, n_ff, n_layers = (
            _count(vision.get(key, 0), key) for key in ("hidden_size", "intermediate_size", "num_hidden_layers")
        )
        return n_layers * (4 * n * n + 3 * n * n_ff)

    def _per_layer_embeddings(self, n_layers: int, n_vocab: int) -> int:
        width = self._number("hidden_size_per_layer_input", 0)
        return width * n_layers * self._number("vocab_size_per_layer_input", n_vocab)

    def _kv_layers(self, n_layers: int) -> tuple[KvLayer, ...]:
        layers = []
        for index in range(n_layers):
            if self._has_kv(index, n_layers):
                _, n_kv_heads, head = self._heads(index)
                window = self._number("sliding_window") if self._is_sliding(index) else None
                layers.append(KvLayer(2 * n_kv_heads * head, window))
        return tuple(layers)

    def _has_kv(self, index: int, n_layers: int) -> bool:
        return index < n_layers - self._number("num_kv_shared_layers", 0)

    def _is_sliding(self, index: int) -> bool:
        kinds = self._text.get("layer_types")
        if isinstance(kinds, list) and index < len(kinds):
            return bool(kinds[index] == "sliding_attention")
        return False

    def _heads(self, index: int) -> tuple[int, int, int]:
        """Heads, heads of keys and values, and how wide they are."""
        n_heads = self._number("num_attention_heads")
        head = self._number("head_dim", self._number("hidden_size") // max(n_heads, 1))
        if not self._is_sliding(index):
            head = self._number("global_head_dim", head)
        return n_heads, self._number("num_key_value_heads", n_heads), head

    def _is_tied(self) -> bool:
        """Gemma's configurations leave it out."""
        told = self._text.get("tie_word_embeddings", self._all.get("tie_word_embeddings"))
        return bool(told) if told is not None else str(self._all.get("model_type", "")).startswith("gemma")

    def _number(self, name: str, default: int | None = None) -> int:
        value = self._text.get(name)
        return _count(default if value is None else value, name)


def _grouping(told: dict[str, Any]) -> tuple[int, int]:
    """Bits of a value, and how many values share a scale; -1 for a whole row."""
    groups = told.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = first.get("weights") if isinstance(first, dict) else None
    if isinstance(weights, dict):  # compressed-tensors
        bits, group = weights.get("num_bits"), weights.get("group_size") or -1
    else:
        bits, group = told.get("bits", told.get("w_bit", 4)), told.get("group_size", _DEFAULT_GROUP)
    if not isinstance(bits, int) or not isinstance(group, int) or not 1 <= bits <= 16:
        raise UnreadableConfig("its quantization_config has no number of bits that can be used")
    return bits, group


def _count(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise UnreadableConfig(f"its {name} should be a number from zero up")
    return value
