"""Qwen3.5 9B as a file whose tensors are a hole: three layers of four are gated delta nets, one looks at everything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.weights.gguf_bytes import TensorShape, fraction, hyperparameters, model_file, string

N_EMBD: Final = 4096
N_FF: Final = 12288
N_LAYERS: Final = 32
N_VOCAB: Final = 248320
N_HEADS, N_KV_HEADS, HEAD = 16, 4, 256
D_STATE, N_KEY_HEADS, N_VALUE_HEADS = 128, 16, 32
KEY, VALUE = D_STATE * N_KEY_HEADS, D_STATE * N_VALUE_HEADS
PERIOD: Final = 4


def write_qwen35(path: Path) -> Path:
    pairs = hyperparameters(
        "qwen35",
        context_length=262144,
        embedding_length=N_EMBD,
        block_count=N_LAYERS,
        feed_forward_length=N_FF,
        vocab_size=N_VOCAB,
        attention__head_count=N_HEADS,
        attention__head_count_kv=N_KV_HEADS,
        attention__key_length=HEAD,
        attention__value_length=HEAD,
        ssm__conv_kernel=4,
        ssm__inner_size=VALUE,
        ssm__state_size=D_STATE,
        ssm__time_step_rank=N_VALUE_HEADS,
        ssm__group_count=N_KEY_HEADS,
        rope__dimension_sections=[11, 11, 10, 0],
        rope__dimension_count=64,
    )
    pairs["qwen35.attention.layer_norm_rms_epsilon"] = fraction(1e-6)
    pairs |= {"general.name": string("Qwen3.5 9B"), "tokenizer.ggml.model": string("none")}
    return model_file(path, pairs, list(_tensors()))


def _tensors() -> Iterator[TensorShape]:
    yield "token_embd.weight", (N_EMBD, N_VOCAB), "Q4_K"
    yield "output_norm.weight", (N_EMBD,), "F32"
    yield "output.weight", (N_EMBD, N_VOCAB), "Q6_K"
    for index in range(N_LAYERS):
        mixing = _attention() if (index + 1) % PERIOD == 0 else _delta_net()
        for name, shape, type_ in (*mixing, *_around()):
            yield f"blk.{index}.{name}", shape, type_


def _attention() -> Iterator[TensorShape]:
    """The query comes with a gate for what the attention says."""
    yield "attn_q.weight", (N_EMBD, 2 * N_HEADS * HEAD), "Q4_K"
    yield "attn_k.weight", (N_EMBD, N_KV_HEADS * HEAD), "Q4_K"
    yield "attn_v.weight", (N_EMBD, N_KV_HEADS * HEAD), "Q6_K"
    yield "attn_output.weight", (N_HEADS * HEAD, N_EMBD), "Q4_K"
    yield "attn_q_norm.weight", (HEAD,), "F32"
    yield "attn_k_norm.weight", (HEAD,), "F32"


def _delta_net() -> Iterator[TensorShape]:
    yield "attn_qkv.weight", (N_EMBD, 2 * KEY + VALUE), "Q4_K"
    yield "attn_gate.weight", (N_EMBD, VALUE), "Q4_K"
    yield "ssm_conv1d.weight", (4, 2 * KEY + VALUE), "F32"
    yield "ssm_dt.bias", (N_VALUE_HEADS,), "F32"
    yield "ssm_a", (N_VALUE_HEADS,), "F32"
    yield "ssm_beta.weight", (N_EMBD, N_VALUE_HEADS), "Q4_K"
    yield "ssm_alpha.weight", (N_EMBD, N_VALUE_HEADS), "Q4_K"
    yield "ssm_norm.weight", (D_STATE,), "F32"
    yield "ssm_out.weight", (VALUE, N_EMBD), "Q4_K"


def _around() -> Iterator[TensorShape]:
    yield "attn_norm.weight", (N_EMBD,), "F32"
    yield "post_attention_norm.weight", (N_EMBD,), "F32"
    yield "ffn_gate.weight", (N_EMBD, N_FF), "Q4_K"
    yield "ffn_up.weight", (N_EMBD, N_FF), "Q4_K"
    yield "ffn_down.weight", (N_FF, N_EMBD), "Q6_K"
