"""BERT: an encoder, every token of which sees all others."""

from __future__ import annotations

from dataclasses import dataclass

import gguf

from tests.models import tokenizers
from tests.models.gguf_file import ModelFile, ModelOptions


@dataclass(frozen=True, slots=True)
class BertShape:
    n_embd: int = 64
    n_layer: int = 2
    n_head: int = 4
    n_ff: int = 128
    n_ctx_train: int = 128
    n_token_types: int = 2


TINY = BertShape()


def bert(
    options: ModelOptions, shape: BertShape = TINY, pooling: gguf.PoolingType = gguf.PoolingType.MEAN
) -> ModelFile:
    file = ModelFile("bert", "tiny bert", options)
    _hyperparameters(file, shape)
    file.writer.add_pooling_type(pooling)
    vocabulary = tokenizers.bert(options.n_vocab)
    vocabulary.write(file.writer)
    file.embedding("token_embd", vocabulary, shape.n_embd)
    file.matrix("token_types", shape.n_embd, shape.n_token_types)
    file.matrix("position_embd", shape.n_embd, shape.n_ctx_train, scale=2)
    _norm(file, "token_embd_norm", shape.n_embd)
    for i in range(shape.n_layer):
        _layer(file, f"blk.{i}", shape)
    return file


def _hyperparameters(file: ModelFile, shape: BertShape) -> None:
    writer = file.writer
    writer.add_context_length(shape.n_ctx_train)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_token_type_count(shape.n_token_types)


def _layer(file: ModelFile, layer: str, shape: BertShape) -> None:
    n_embd, n_ff = shape.n_embd, shape.n_ff
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        file.matrix(f"{layer}.{name}", n_embd, n_embd)
        file.bias(f"{layer}.{name}", n_embd)
    _norm(file, f"{layer}.attn_output_norm", n_embd)
    for name, n_in, n_out in (("ffn_up", n_embd, n_ff), ("ffn_down", n_ff, n_embd)):
        file.matrix(f"{layer}.{name}", n_in, n_out)
        file.bias(f"{layer}.{name}", n_out)
    _norm(file, f"{layer}.layer_output_norm", n_embd)


def _norm(file: ModelFile, name: str, n: int) -> None:
    file.norm(name, n)
    file.bias(name, n)
