"""Gemma 3 and Gemma 4: layers with a sliding window among layers without one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.models import tokenizers
from tests.models.gguf_file import ModelFile, ModelOptions
from tests.models.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class GemmaShape:
    """`window_layers[i]`: layer i sees only the last `n_swa` tokens."""

    window_layers: tuple[bool, ...]
    n_swa: int
    n_embd: int = 64
    n_head: int = 4
    n_head_kv: int = 1
    n_embd_head: int = 32
    n_ff: int = 128
    n_ctx_train: int = 4096

    @property
    def n_layer(self) -> int:
        return len(self.window_layers)


@dataclass(frozen=True, slots=True)
class Gemma4Shape:
    """The last `n_shared` layers keep no keys and values: they read those of the last two before them.

    Heads of layers with a window are `n_embd_head_swa` wide, those of the others `base.n_embd_head`.
    """

    base: GemmaShape
    n_shared: int = 2
    n_embd_head_swa: int = 16
    n_embd_per_layer: int = 16

    def n_head_width(self, layer: int) -> int:
        return self.n_embd_head_swa if self.base.window_layers[layer] else self.base.n_embd_head

    def has_kv(self, layer: int) -> bool:
        return layer < self.base.n_layer - self.n_shared

    def n_ff(self, layer: int) -> int:
        """Layers without keys and values of their own are twice as wide inside."""
        return self.base.n_ff if self.has_kv(layer) else 2 * self.base.n_ff


TINY_GEMMA3 = GemmaShape((True, True, True, False), n_swa=32)
TINY_GEMMA4 = Gemma4Shape(GemmaShape((True, True, True, False, True, False), n_swa=64, n_head_kv=2))
GEMMA3_270M = GemmaShape((True, True, True, True, True, False) * 3, 512, 640, 4, 1, 256, 2048, 32768)


def gemma3(options: ModelOptions, shape: GemmaShape = TINY_GEMMA3) -> ModelFile:
    file = ModelFile("gemma3", "tiny gemma3", options)
    _hyperparameters(file, shape)
    file.writer.add_sliding_window_pattern(list(shape.window_layers))
    vocabulary = tokenizers.gemma3(options.n_vocab)
    _model_tensors(file, shape, vocabulary)
    for i in range(shape.n_layer):
        _attention(file, f"blk.{i}", shape, shape.n_embd_head, has_kv=True)
        _feed_forward(file, f"blk.{i}", shape.n_embd, shape.n_ff)
    return file


def gemma4(options: ModelOptions, shape: Gemma4Shape = TINY_GEMMA4) -> ModelFile:
    file, base = ModelFile("gemma4", "tiny gemma4", options), shape.base
    _hyperparameters(file, base)
    _gemma4_hyperparameters(file, shape)
    vocabulary = tokenizers.gemma4(options.n_vocab)
    _model_tensors(file, base, vocabulary)
    n_per_layer, n_all_layers = shape.n_embd_per_layer, shape.n_embd_per_layer * base.n_layer
    file.table("per_layer_token_embd", len(vocabulary.tokens), n_all_layers)
    file.matrix("per_layer_model_proj", base.n_embd, n_all_layers)
    file.norm("per_layer_proj_norm", n_per_layer)
    file.vector("rope_freqs.weight", _rope_factors(base.n_embd_head))
    for i in range(base.n_layer):
        layer = f"blk.{i}"
        _attention(file, layer, base, shape.n_head_width(i), has_kv=shape.has_kv(i))
        _feed_forward(file, layer, base.n_embd, shape.n_ff(i))
        file.matrix(f"{layer}.inp_gate", base.n_embd, n_per_layer)
        file.matrix(f"{layer}.proj", n_per_layer, base.n_embd)
        file.norm(f"{layer}.post_norm", base.n_embd)
        file.vector(f"{layer}.layer_output_scale.weight", np.array([0.9], np.float32))
    return file


def _hyperparameters(file: ModelFile, shape: GemmaShape) -> None:
    writer = file.writer
    writer.add_context_length(shape.n_ctx_train)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_key_length(shape.n_embd_head)
    writer.add_value_length(shape.n_embd_head)
    writer.add_rope_freq_base(1e6)
    writer.add_rope_freq_base_swa(1e4)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_sliding_window(shape.n_swa)
    if file.writer.arch == "gemma3":
        writer.add_feed_forward_length(shape.n_ff)


def _gemma4_hyperparameters(file: ModelFile, shape: Gemma4Shape) -> None:
    writer, base = file.writer, shape.base
    writer.add_feed_forward_length([shape.n_ff(i) for i in range(base.n_layer)])
    writer.add_sliding_window_pattern(list(base.window_layers))
    writer.add_shared_kv_layers(shape.n_shared)
    writer.add_embedding_length_per_layer_input(shape.n_embd_per_layer)
    writer.add_key_length_swa(shape.n_embd_head_swa)
    writer.add_value_length_swa(shape.n_embd_head_swa)
    writer.add_rope_dimension_count(base.n_embd_head)
    writer.add_rope_dimension_count_swa(shape.n_embd_head_swa)
    writer.add_final_logit_softcapping(30.0)


def _rope_factors(n_embd_head: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """A quarter of each head is turned by its position; a factor this large leaves the rest as it is."""
    n_turned = n_embd_head // 8
    return np.array([1.0] * n_turned + [1e30] * (n_embd_head // 2 - n_turned), np.float32)


def _model_tensors(file: ModelFile, shape: GemmaShape, vocabulary: Vocabulary) -> None:
    """Input and output share the embeddings."""
    vocabulary.write(file.writer)
    file.embedding("token_embd", vocabulary, shape.n_embd, scale=0.3)
    file.mixing_norm("output_norm", shape.n_embd)


def _attention(file: ModelFile, layer: str, shape: GemmaShape, n_embd_head: int, *, has_kv: bool) -> None:
    file.norm(f"{layer}.attn_norm", shape.n_embd)
    file.matrix(f"{layer}.attn_q", shape.n_embd, shape.n_head * n_embd_head)
    file.norm(f"{layer}.attn_q_norm", n_embd_head, scale=0.5)
    if has_kv:
        file.matrix(f"{layer}.attn_k", shape.n_embd, shape.n_head_kv * n_embd_head)
        file.matrix(f"{layer}.attn_v", shape.n_embd, shape.n_head_kv * n_embd_head)
        file.norm(f"{layer}.attn_k_norm", n_embd_head)
    file.matrix(f"{layer}.attn_output", shape.n_head * n_embd_head, shape.n_embd)
    file.norm(f"{layer}.post_attention_norm", shape.n_embd, scale=2)


def _feed_forward(file: ModelFile, layer: str, n_embd: int, n_ff: int) -> None:
    file.norm(f"{layer}.ffn_norm", n_embd)
    file.matrix(f"{layer}.ffn_gate", n_embd, n_ff)
    file.matrix(f"{layer}.ffn_up", n_embd, n_ff)
    file.matrix(f"{layer}.ffn_down", n_ff, n_embd)
    file.norm(f"{layer}.post_ffw_norm", n_embd, scale=2)
