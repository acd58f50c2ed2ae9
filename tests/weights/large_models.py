"""Model files of real shapes with nothing in them: a true GGUF header, and a hole where the weights would be.

Shapes are those of the models' own configurations; types are what llama.cpp's Q4_K_M gives each tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf

Tensors = Iterator[tuple[str, tuple[int, ...], str]]
"""Name, shape as ggml counts (the dimension that is contiguous first), type."""


@dataclass(frozen=True, slots=True)
class Shape:
    """`n_swa` and `sliding`: the window, and the layers that have one; `n_shared`: the last layers, without own keys."""

    architecture: str
    n_layers: int
    n_embd: int
    n_heads: int
    n_kv_heads: int
    head: int
    n_ff: int
    n_vocab: int
    is_tied: bool = False
    has_qk_norm: bool = False
    has_qkv_bias: bool = False
    n_swa: int = 0
    sliding_head: int = 0
    full_every: int = 0
    n_shared: int = 0
    n_per_layer: int = 0
    n_experts: int = 0
    n_experts_used: int = 0

    def is_sliding(self, layer: int) -> bool:
        return self.n_swa > 0 and (layer + 1) % self.full_every != 0

    def width(self, layer: int) -> int:
        return self.sliding_head if self.sliding_head and self.is_sliding(layer) else self.head


SHAPES: Final[dict[str, Shape]] = {
    "qwen3-14b": Shape("qwen3", 40, 5120, 40, 8, 128, 17408, 151936, has_qk_norm=True),
    "qwen2.5-7b": Shape("qwen2", 28, 3584, 28, 4, 128, 18944, 152064, has_qkv_bias=True),
    "gemma-4-e4b": Shape(
        "gemma4", 42, 2560, 8, 2, 512, 10240, 262144, is_tied=True, has_qk_norm=True, n_swa=512, sliding_head=256,
        full_every=6, n_shared=18, n_per_layer=256,
    ),
    "gemma-3-4b": Shape(
        "gemma3", 34, 2560, 8, 4, 256, 10240, 262144, is_tied=True, has_qk_norm=True, n_swa=1024, full_every=6
    ),
    "llama-3.1-8b": Shape("llama", 32, 4096, 32, 8, 128, 14336, 128256),
    "qwen3-30b-a3b": Shape(
        "qwen3moe", 48, 2048, 32, 4, 128, 768, 151936, has_qk_norm=True, n_experts=128, n_experts_used=8
    ),
}  # fmt: skip


def write(name: str, path: Path) -> Path:
    """The file of `SHAPES[name]`. It takes up the space of its header only, where the file system can leave holes."""
    shape = SHAPES[name]
    writer: Any = gguf.GGUFWriter(path, shape.architecture)
    writer.add_name(name)
    _hyperparameters(writer, shape)
    n_bytes = 0
    for tensor, dims, type_ in _tensors(shape):
        kind = gguf.GGMLQuantizationType[type_]
        n_in_block, n_block_bytes = gguf.GGML_QUANT_SIZES[kind]
        n_values = 1
        for n in dims:
            n_values *= n
        size = n_values // n_in_block * n_block_bytes
        writer.add_tensor_info(tensor, dims[::-1], gguf.np.dtype("float32"), size, raw_dtype=kind)
        n_bytes += -(-size // writer.data_alignment) * writer.data_alignment
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    header = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(-(-header // 32) * 32 + n_bytes)
    return path


def _hyperparameters(writer: Any, shape: Shape) -> None:
    writer.add_context_length(131072)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(shape.n_vocab)
    writer.add_tokenizer_model("none")
    if shape.n_experts:
        writer.add_expert_count(shape.n_experts)
        writer.add_expert_used_count(shape.n_experts_used)
        writer.add_expert_feed_forward_length(shape.n_ff)
    if shape.n_swa:
        writer.add_sliding_window(shape.n_swa)
        writer.add_sliding_window_pattern([shape.is_sliding(i) for i in range(shape.n_layers)])
    if shape.sliding_head:
        writer.add_shared_kv_layers(shape.n_shared)
        writer.add_embedding_length_per_layer_input(shape.n_per_layer)
        writer.add_key_length_swa(shape.sliding_head)
        writer.add_value_length_swa(shape.sliding_head)
        writer.add_rope_dimension_count(shape.head)
        writer.add_rope_dimension_count_swa(shape.sliding_head)


def _tensors(shape: Shape) -> Tensors:
    yield "token_embd.weight", (shape.n_embd, shape.n_vocab), "Q6_K" if shape.is_tied else "Q4_K"
    yield "output_norm.weight", (shape.n_embd,), "F32"
    if not shape.is_tied:
        yield "output.weight", (shape.n_embd, shape.n_vocab), "Q6_K"
    if shape.n_per_layer:
        n_all = shape.n_per_layer * shape.n_layers
        yield "per_layer_token_embd.weight", (n_all, shape.n_vocab), "Q6_K"
        yield "per_layer_model_proj.weight", (shape.n_embd, n_all), "BF16"
        yield "per_layer_proj_norm.weight", (shape.n_per_layer,), "F32"
        yield "rope_freqs.weight", (shape.head // 2,), "F32"
    for i in range(shape.n_layers):
        for name, dims, type_ in (*_attention(shape, i), *_feed_forward(shape, i)):
            yield f"blk.{i}.{name}", dims, type_


def _better(shape: Shape, i: int) -> str:
    """Q4_K_M keeps some layers' values and last matrices more exact (`use_more_bits`)."""
    n = shape.n_layers
    return "Q6_K" if i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2 else "Q4_K"


def _attention(shape: Shape, i: int) -> Tensors:
    n_embd, head = shape.n_embd, shape.width(i)
    widths = {"q": shape.n_heads * head, "k": shape.n_kv_heads * head, "v": shape.n_kv_heads * head}
    yield "attn_norm.weight", (n_embd,), "F32"
    for kind, width in widths.items():
        yield f"attn_{kind}.weight", (n_embd, width), _better(shape, i) if kind == "v" else "Q4_K"
        if shape.has_qkv_bias:
            yield f"attn_{kind}.bias", (width,), "F32"
    for kind in "qk" if shape.has_qk_norm else "":
        yield f"attn_{kind}_norm.weight", (head,), "F32"
    yield "attn_output.weight", (shape.n_heads * head, n_embd), "Q4_K"
    if shape.n_swa:
        yield "post_attention_norm.weight", (n_embd,), "F32"
        yield "post_ffw_norm.weight", (n_embd,), "F32"
    if shape.n_per_layer:
        yield "inp_gate.weight", (n_embd, shape.n_per_layer), "F32"
        yield "proj.weight", (shape.n_per_layer, n_embd), "F32"
        yield "post_norm.weight", (n_embd,), "F32"
        yield "layer_output_scale.weight", (1,), "F32"


def _feed_forward(shape: Shape, i: int) -> Tensors:
    n_embd, n_ff = shape.n_embd, shape.n_ff
    yield "ffn_norm.weight", (n_embd,), "F32"
    experts, suffix = ((shape.n_experts,), "_exps") if shape.n_experts else ((), "")
    if shape.n_experts:
        yield "ffn_gate_inp.weight", (n_embd, shape.n_experts), "F32"
    yield f"ffn_gate{suffix}.weight", (n_embd, n_ff, *experts), "Q4_K"
    yield f"ffn_up{suffix}.weight", (n_embd, n_ff, *experts), "Q4_K"
    yield f"ffn_down{suffix}.weight", (n_ff, n_embd, *experts), _better(shape, i)
