"""Mamba: a state that takes in one token after another and can be cut nowhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.models import tokenizers
from tests.models.gguf_file import ModelFile, ModelOptions


@dataclass(frozen=True, slots=True)
class MambaShape:
    n_embd: int = 64
    n_layer: int = 2
    d_conv: int = 4
    d_state: int = 8
    dt_rank: int = 4
    n_ctx_train: int = 4096

    @property
    def d_inner(self) -> int:
        return 2 * self.n_embd


TINY = MambaShape()


def mamba(options: ModelOptions, shape: MambaShape = TINY) -> ModelFile:
    file = ModelFile("mamba", "tiny mamba", options)
    _hyperparameters(file, shape)
    vocabulary = tokenizers.plain(options.n_vocab)
    vocabulary.write(file.writer)
    file.embedding("token_embd", vocabulary, shape.n_embd, scale=0.5)
    file.mixing_norm("output_norm", shape.n_embd)
    for i in range(shape.n_layer):
        _layer(file, f"blk.{i}", shape)
    return file


def _hyperparameters(file: ModelFile, shape: MambaShape) -> None:
    writer = file.writer
    writer.add_context_length(shape.n_ctx_train)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(shape.n_layer)
    writer.add_ssm_conv_kernel(shape.d_conv)
    writer.add_ssm_inner_size(shape.d_inner)
    writer.add_ssm_state_size(shape.d_state)
    writer.add_ssm_time_step_rank(shape.dt_rank)
    writer.add_layer_norm_rms_eps(1e-5)


def _layer(file: ModelFile, layer: str, shape: MambaShape) -> None:
    d_inner, d_state = shape.d_inner, shape.d_state
    file.norm(f"{layer}.attn_norm", shape.n_embd)
    file.matrix(f"{layer}.ssm_in", shape.n_embd, 2 * d_inner)
    file.vector(f"{layer}.ssm_conv1d.weight", np.full((d_inner, shape.d_conv), 0.5, np.float32))
    file.bias(f"{layer}.ssm_conv1d", d_inner)
    file.matrix(f"{layer}.ssm_x", d_inner, shape.dt_rank + 2 * d_state)
    file.matrix(f"{layer}.ssm_dt", shape.dt_rank, d_inner)
    file.bias(f"{layer}.ssm_dt", d_inner)
    decays = -np.arange(1, d_state + 1, dtype=np.float32)  # how fast each part of the state is forgotten
    file.vector(f"{layer}.ssm_a", np.tile(decays, (d_inner, 1)))
    file.vector(f"{layer}.ssm_d", np.ones(d_inner, np.float32))
    file.matrix(f"{layer}.ssm_out", d_inner, shape.n_embd, scale=2)
