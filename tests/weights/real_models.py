"""Models that published figures speak of: files of the right shapes, types and sizes, whose tensors are a hole.

`write("qwen3-14b", "Q4_K_M", path)` makes one in a moment, and it takes no room on the disk. llama.cpp loads them, as
far as it does without allocating anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.weights.gguf_bytes import (
    TensorShape,
    flag,
    floats,
    fraction,
    hyperparameters,
    model_file,
    number,
    string,
)
from tests.weights.quant_mix import tensor_type

Named = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Experts:
    n: int
    n_used: int
    n_ff: int


@dataclass(frozen=True, slots=True)
class Gemma4:
    """What layers with a sliding window have otherwise, the layers that share keys, and embeddings for each layer."""

    n_embd_head_swa: int
    n_shared: int
    n_embd_per_layer: int


@dataclass(frozen=True, slots=True)
class Shape:
    """`full_period`: one layer in so many has no window of `n_swa` tokens; 0: none has a window."""

    architecture: str
    n_vocab: int
    n_embd: int
    n_layers: int
    n_ff: int
    n_heads: int
    n_kv_heads: int
    n_embd_head: int = 128
    n_ctx_train: int = 32768
    tied: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    n_swa: int = 0
    full_period: int = 0
    experts: Experts | None = None
    gemma4: Gemma4 | None = None

    def is_sliding(self, layer: int) -> bool:
        return bool(self.full_period) and (layer + 1) % self.full_period != 0

    def n_head_width(self, layer: int) -> int:
        return self.gemma4.n_embd_head_swa if self.gemma4 and self.is_sliding(layer) else self.n_embd_head


SHAPES: Final = {
    "smollm2-135m": Shape("llama", 49152, 576, 30, 1536, 9, 3, 64, 8192, tied=True),
    "llama-2-7b": Shape("llama", 32000, 4096, 32, 11008, 32, 32, n_ctx_train=4096),
    "llama-2-13b": Shape("llama", 32000, 5120, 40, 13824, 40, 40, n_ctx_train=4096),
    "mistral-7b": Shape("llama", 32000, 4096, 32, 14336, 32, 8),
    "llama-3-8b": Shape("llama", 128256, 4096, 32, 14336, 32, 8, n_ctx_train=131072),
    "llama-3.2-1b": Shape("llama", 128256, 2048, 16, 8192, 32, 8, 64, n_ctx_train=131072, tied=True),
    "llama-3.2-3b": Shape("llama", 128256, 3072, 28, 8192, 24, 8, n_ctx_train=131072, tied=True),
    "qwen2.5-0.5b": Shape("qwen2", 151936, 896, 24, 4864, 14, 2, 64, tied=True, qkv_bias=True),
    "qwen2.5-1.5b": Shape("qwen2", 151936, 1536, 28, 8960, 12, 2, tied=True, qkv_bias=True),
    "qwen2.5-3b": Shape("qwen2", 151936, 2048, 36, 11008, 16, 2, tied=True, qkv_bias=True),
    "qwen2.5-7b": Shape("qwen2", 152064, 3584, 28, 18944, 28, 4, qkv_bias=True),
    "qwen2.5-14b": Shape("qwen2", 152064, 5120, 48, 13824, 40, 8, qkv_bias=True),
    "qwen3-0.6b": Shape("qwen3", 151936, 1024, 28, 3072, 16, 8, tied=True, qk_norm=True),
    "qwen3-1.7b": Shape("qwen3", 151936, 2048, 28, 6144, 16, 8, tied=True, qk_norm=True),
    "qwen3-4b": Shape("qwen3", 151936, 2560, 36, 9728, 32, 8, tied=True, qk_norm=True),
    "qwen3-8b": Shape("qwen3", 151936, 4096, 36, 12288, 32, 8, qk_norm=True),
    "qwen3-14b": Shape("qwen3", 151936, 5120, 40, 17408, 40, 8, qk_norm=True),
    "qwen3-32b": Shape("qwen3", 151936, 5120, 64, 25600, 64, 8, qk_norm=True),
    "qwen3-30b-a3b": Shape("qwen3moe", 151936, 2048, 48, 6144, 32, 4, qk_norm=True, experts=Experts(128, 8, 768)),
    "gpt-oss-20b": Shape(
        "gpt-oss", 201088, 2880, 24, 2880, 64, 8, 64, 131072, qkv_bias=True, n_swa=128, full_period=2,
        experts=Experts(32, 4, 2880),
    ),
    "gemma-3-270m": Shape(
        "gemma3", 262144, 640, 18, 2048, 4, 1, 256, tied=True, qk_norm=True, n_swa=512, full_period=6
    ),
    "gemma-3-1b": Shape("gemma3", 262144, 1152, 26, 6912, 4, 1, 256, tied=True, qk_norm=True, n_swa=512, full_period=6),
    "gemma-3-4b": Shape(
        "gemma3", 262144, 2560, 34, 10240, 8, 4, 256, 131072, tied=True, qk_norm=True, n_swa=1024, full_period=6
    ),
    "gemma-3-12b": Shape(
        "gemma3", 262144, 3840, 48, 15360, 16, 8, 256, 131072, tied=True, qk_norm=True, n_swa=1024, full_period=6
    ),
    "gemma-4-e4b": Shape(
        "gemma4", 262144, 2560, 42, 10240, 8, 2, 512, 131072, tied=True, qk_norm=True, n_swa=512, full_period=6,
        gemma4=Gemma4(256, 18, 256),
    ),
}  # fmt: skip


def write(name: str, mix: str, path: Path) -> Path:
    """`mix` is one of `quant_mix`: `Q4_K_M`, `Q8_0`, …."""
    shape = SHAPES[name]
    tensors: list[TensorShape] = [
        (tensor, dimensions, tensor_type(mix, tensor, dimensions, shape.n_layers, tied=shape.tied))
        for tensor, dimensions in _tensors(shape)
    ]
    return model_file(path, _pairs(name, shape), tensors)


def _pairs(name: str, shape: Shape) -> dict[str, bytes]:
    values: dict[str, int | list[int] | list[bool]] = {
        "context_length": shape.n_ctx_train,
        "embedding_length": shape.n_embd,
        "block_count": shape.n_layers,
        "feed_forward_length": shape.n_ff,
        "vocab_size": shape.n_vocab,
        "attention__head_count": shape.n_heads,
        "attention__head_count_kv": shape.n_kv_heads,
        "attention__key_length": shape.n_embd_head,
        "attention__value_length": shape.n_embd_head,
    }
    if shape.full_period:
        values["attention__sliding_window"] = shape.n_swa
    if experts := shape.experts:
        values |= {"expert_count": experts.n, "expert_used_count": experts.n_used}
        values["expert_feed_forward_length"] = experts.n_ff
    if gemma4 := shape.gemma4:
        values["attention__sliding_window_pattern"] = [shape.is_sliding(i) for i in range(shape.n_layers)]
        values["attention__shared_kv_layers"] = gemma4.n_shared
        values["attention__key_length_swa"] = values["attention__value_length_swa"] = gemma4.n_embd_head_swa
        values["embedding_length_per_layer_input"] = gemma4.n_embd_per_layer
        values["rope__dimension_count"] = shape.n_embd_head
        values["rope__dimension_count_swa"] = gemma4.n_embd_head_swa
    return {
        **hyperparameters(shape.architecture, **values),
        f"{shape.architecture}.attention.layer_norm_rms_epsilon": fraction(1e-6),
        "general.name": string(name),
        "tokenizer.ggml.model": string("none"),
    }


def _tensors(shape: Shape) -> Iterator[Named]:
    yield "token_embd.weight", (shape.n_embd, shape.n_vocab)
    yield "output_norm.weight", (shape.n_embd,)
    if not shape.tied:
        yield "output.weight", (shape.n_embd, shape.n_vocab)
    if gemma4 := shape.gemma4:
        n_all_layers = gemma4.n_embd_per_layer * shape.n_layers
        yield "per_layer_token_embd.weight", (n_all_layers, shape.n_vocab)
        yield "per_layer_model_proj.weight", (shape.n_embd, n_all_layers)
        yield "per_layer_proj_norm.weight", (gemma4.n_embd_per_layer,)
        yield "rope_freqs.weight", (shape.n_embd_head // 2,)
    for i in range(shape.n_layers):
        for name, dimensions in (*_attention(shape, i), *_feed_forward(shape), *_around(shape)):
            yield f"blk.{i}.{name}", dimensions


def _attention(shape: Shape, layer: int) -> Iterator[Named]:
    n_embd, width = shape.n_embd, shape.n_head_width(layer)
    widths = {"attn_q": shape.n_heads * width, "attn_k": shape.n_kv_heads * width, "attn_v": shape.n_kv_heads * width}
    yield "attn_norm.weight", (n_embd,)
    for name, n_out in widths.items():
        yield f"{name}.weight", (n_embd, n_out)
        if shape.qkv_bias:
            yield f"{name}.bias", (n_out,)
    yield "attn_output.weight", (shape.n_heads * width, n_embd)
    if shape.qk_norm:
        yield "attn_q_norm.weight", (width,)
        yield "attn_k_norm.weight", (width,)
    if shape.architecture == "gpt-oss":
        yield "attn_output.bias", (n_embd,)
        yield "attn_sinks.weight", (shape.n_heads,)


def _feed_forward(shape: Shape) -> Iterator[Named]:
    n_embd, experts = shape.n_embd, shape.experts
    yield "post_attention_norm.weight" if shape.architecture == "gpt-oss" else "ffn_norm.weight", (n_embd,)
    if experts is None:
        yield "ffn_gate.weight", (n_embd, shape.n_ff)
        yield "ffn_up.weight", (n_embd, shape.n_ff)
        yield "ffn_down.weight", (shape.n_ff, n_embd)
        return
    yield "ffn_gate_inp.weight", (n_embd, experts.n)
    if shape.architecture == "gpt-oss":
        yield "ffn_gate_inp.bias", (experts.n,)
    for name, n_in, n_out in (
        ("gate", n_embd, experts.n_ff),
        ("up", n_embd, experts.n_ff),
        ("down", experts.n_ff, n_embd),
    ):
        yield f"ffn_{name}_exps.weight", (n_in, n_out, experts.n)
        if shape.architecture == "gpt-oss":
            yield f"ffn_{name}_exps.bias", (n_out, experts.n)


def _around(shape: Shape) -> Iterator[Named]:
    """What Gemma puts behind attention and feed-forward."""
    if shape.architecture in ("gemma3", "gemma4"):
        yield "post_attention_norm.weight", (shape.n_embd,)
        yield "post_ffw_norm.weight", (shape.n_embd,)
    if gemma4 := shape.gemma4:
        yield "inp_gate.weight", (shape.n_embd, gemma4.n_embd_per_layer)
        yield "proj.weight", (gemma4.n_embd_per_layer, shape.n_embd)
        yield "post_norm.weight", (shape.n_embd,)
        yield "layer_output_scale.weight", (1,)


def write_gemma4_projector(path: Path, n_embd_text: int = 2560) -> Path:
    """The image encoder beside Gemma 4 E4B, without the one for sound."""
    n_embd, n_ff, n_layers, patch = 768, 3072, 16, 16
    values = {"image_size": 224, "patch_size": patch, "embedding_length": n_embd, "feed_forward_length": n_ff}
    values |= {"block_count": n_layers, "attention.head_count": 12, "projection_dim": n_embd_text}
    pairs = {f"clip.vision.{name}": number(value) for name, value in values.items()}
    pairs |= {f"clip.vision.{name}": floats(0.5, 0.5, 0.5) for name in ("image_mean", "image_std")}
    pairs["clip.vision.attention.layer_norm_epsilon"] = fraction(1e-6)
    words = {"general.architecture": "clip", "general.type": "mmproj", "clip.projector_type": "gemma4v"}
    flags_ = {name: flag(True) for name in ("clip.has_vision_encoder", "clip.use_gelu")}
    tensors: list[TensorShape] = [
        ("v.patch_embd.weight", (patch, patch, 3, n_embd), "F16"),
        ("v.position_embd.weight", (n_embd, 10240, 2), "F32"),
        ("mm.input_projection.weight", (n_embd, n_embd_text), "F16"),
    ]
    square = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_out"), (n_embd, n_embd))
    matrices = {**square, "ffn_gate": (n_embd, n_ff), "ffn_up": (n_embd, n_ff), "ffn_down": (n_ff, n_embd)}
    norms = dict.fromkeys(("ln1", "ln2", "attn_post_norm", "ffn_post_norm"), (n_embd,))
    norms |= dict.fromkeys(("attn_q_norm", "attn_k_norm"), (n_embd // 12,))
    for layer in (f"v.blk.{i}" for i in range(n_layers)):
        tensors += [(f"{layer}.{name}.weight", shape, "F16") for name, shape in matrices.items()]
        tensors += [(f"{layer}.{name}.weight", shape, "F32") for name, shape in norms.items()]
    return model_file(path, {key: string(value) for key, value in words.items()} | flags_ | pairs, tensors)
