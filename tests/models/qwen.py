"""Qwen2 and Qwen3, and Qwen3 as an embedding model."""

from __future__ import annotations

from dataclasses import dataclass

import gguf

from tests.models import tokenizers
from tests.models.gguf_file import ModelFile, ModelOptions
from tests.models.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class QwenShape:
    n_embd: int = 64
    n_layer: int = 2
    n_head: int = 4
    n_head_kv: int = 2
    n_embd_head: int = 32
    n_ff: int = 128
    n_ctx_train: int = 4096


TINY = QwenShape()
TINY_QWEN2 = QwenShape(n_embd_head=16)  # as in every Qwen2: all heads together are as wide as the model
QWEN3_0_6B = QwenShape(1024, 28, 16, 8, 128, 3072, 40960)


def qwen3(options: ModelOptions, shape: QwenShape = TINY) -> ModelFile:
    file = ModelFile("qwen3", "tiny qwen3", options)
    _hyperparameters(file, shape)
    vocabulary = tokenizers.qwen3(options.n_vocab)
    _tensors(file, shape, vocabulary, qk_norm=True, tied=False)
    return file


def qwen2(options: ModelOptions, shape: QwenShape = TINY_QWEN2) -> ModelFile:
    file = ModelFile("qwen2", "tiny qwen2", options)
    _hyperparameters(file, shape)
    vocabulary = tokenizers.qwen2(options.n_vocab)
    _tensors(file, shape, vocabulary, qk_norm=False, tied=True)
    return file


def qwen2vl(options: ModelOptions, shape: QwenShape = TINY_QWEN2) -> ModelFile:
    """Qwen2 with positions in time, rows and columns."""
    file = ModelFile("qwen2vl", "tiny qwen2vl", options)
    _hyperparameters(file, shape)
    file.writer.add_rope_dimension_sections([2, 3, 3, 0])
    vocabulary = tokenizers.qwen2(options.n_vocab)
    _tensors(file, shape, vocabulary, qk_norm=False, tied=True)
    return file


def qwen3_embedding(options: ModelOptions, shape: QwenShape = TINY) -> ModelFile:
    file = ModelFile("qwen3", "tiny qwen3 embedding", options)
    _hyperparameters(file, shape)
    file.writer.add_pooling_type(gguf.PoolingType.LAST)
    vocabulary = tokenizers.qwen3_embedding(options.n_vocab)
    _tensors(file, shape, vocabulary, qk_norm=True, tied=True)
    return file


def _hyperparameters(file: ModelFile, shape: QwenShape) -> None:
    writer = file.writer
    writer.add_context_length(shape.n_ctx_train)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_key_length(shape.n_embd_head)
    writer.add_value_length(shape.n_embd_head)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)


def _tensors(file: ModelFile, shape: QwenShape, vocabulary: Vocabulary, *, qk_norm: bool, tied: bool) -> None:
    vocabulary.write(file.writer)
    n_embd, n_q, n_kv = shape.n_embd, shape.n_head * shape.n_embd_head, shape.n_head_kv * shape.n_embd_head
    file.embedding("token_embd", vocabulary, n_embd, scale=0.5)
    file.mixing_norm("output_norm", n_embd)
    if not tied:
        file.embedding("output", vocabulary, n_embd, scale=0.5)
    for layer in (f"blk.{i}" for i in range(shape.n_layer)):
        file.norm(f"{layer}.attn_norm", n_embd)
        for name, n_out in (("attn_q", n_q), ("attn_k", n_kv), ("attn_v", n_kv)):
            file.matrix(f"{layer}.{name}", n_embd, n_out)
            if not qk_norm:
                file.bias(f"{layer}.{name}", n_out)
        file.matrix(f"{layer}.attn_output", n_q, n_embd, scale=2)
        if qk_norm:
            file.norm(f"{layer}.attn_q_norm", shape.n_embd_head, scale=1.5)
            file.norm(f"{layer}.attn_k_norm", shape.n_embd_head, scale=1.5)
        file.norm(f"{layer}.ffn_norm", n_embd)
        file.matrix(f"{layer}.ffn_gate", n_embd, shape.n_ff)
        file.matrix(f"{layer}.ffn_up", n_embd, shape.n_ff)
        file.matrix(f"{layer}.ffn_down", shape.n_ff, n_embd, scale=2)
