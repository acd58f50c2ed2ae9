"""A model layer by layer, as llama.cpp sees it (`llama_model_base::load_hparams`, `llama_model::create_memory`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from weights.gguf_header import DamagedHeader
from weights.gguf_keys import Keys
from weights.sliding_window import sliding_layers

MOST_LAYERS: Final = 512
_GEMMA3N_LAYERS_WITH_KV: Final = 20

_RECURRENT: Final = {"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"}
_RECURRENT_WITHOUT_HEADS: Final = {
    "bailingmoe3", "glm5-next", "granitehybrid", "jamba", "kimi-k3", "kimi-linear", "lfm2", "lfm2moe", "plamo2",
}  # fmt: skip
_RECURRENT_BUT_EVERY_NTH: Final = {"minimax-01": 8, "qwen35": 4, "qwen35moe": 4, "qwen3next": 4, "qwen4exp": 4}
_WITHOUT_A_CACHE: Final = {
    "bert", "dream", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llada", "llada-moe", "modern-bert",
    "neo-bert", "nomic-bert", "nomic-bert-moe", "rnd1", "wavtokenizer-dec",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layer:
    """`has_kv`: keeps keys and values of its own; one that does not shares those of another layer, or needs none.

    `is_recurrent`: keeps a state of fixed size. `is_for_guessing`: only used to guess tokens ahead.
    """

    n_heads: int
    n_kv_heads: int
    head_dim_k: int
    head_dim_v: int
    n_ff: int
    is_sliding: bool
    is_recurrent: bool
    is_for_guessing: bool
    has_kv: bool


@dataclass(frozen=True, slots=True)
class Layers:
    """`sliding_window`: None where no layer has one. `n_kv_shared`: so many of the last layers keep none."""

    layers: tuple[Layer, ...]
    sliding_window: int | None
    n_kv_shared: int


def read_layers(keys: Keys) -> Layers:
    """Raises `DamagedHeader`."""
    n_layers = keys.number("block_count")
    n_guessing = keys.number("nextn_predict_layers", 0)
    if not 0 < n_layers <= MOST_LAYERS or n_guessing > n_layers:
        raise DamagedHeader(f"a model cannot have {n_layers} layers, {n_guessing} of them for guessing")
    n_trunk = n_layers - n_guessing
    n_heads = keys.per_layer("attention.head_count", n_layers, 0)
    n_kv_heads = keys.per_layer("attention.head_count_kv", n_layers, n_heads)
    n_ff = keys.per_layer("feed_forward_length", n_layers, 0)
    window, is_sliding = sliding_layers(keys, n_layers, n_guessing)
    is_recurrent = _recurrent(keys, n_trunk, n_kv_heads, n_ff)
    if keys.architecture == "lfm2" and (window := keys.number("attention.sliding_window", 0) or None):
        is_sliding = tuple(i < n_trunk and not recurrent for i, recurrent in enumerate(is_recurrent))
    n_shared = _shared(keys, n_layers)
    widths = _HeadWidths.read(keys, n_heads[0])
    layers = tuple(
        Layer(
            n_heads=n_heads[i],
            n_kv_heads=n_kv_heads[i],
            head_dim_k=widths.k_sliding if is_sliding[i] else widths.k,
            head_dim_v=widths.v_sliding if is_sliding[i] else widths.v,
            n_ff=n_ff[i],
            is_sliding=is_sliding[i],
            is_recurrent=is_recurrent[i],
            is_for_guessing=i >= n_trunk,
            has_kv=_has_kv(keys.architecture, n_kv_heads[i], is_recurrent[i]) and i < min(n_trunk, n_layers - n_shared),
        )
        for i in range(n_layers)
    )
    return Layers(layers, window, n_shared)


@dataclass(frozen=True, slots=True)
class _HeadWidths:
    k: int
    v: int
    k_sliding: int
    v_sliding: int

    @classmethod
    def read(cls, keys: Keys, n_heads: int) -> _HeadWidths:
        n_embd_head = keys.number("embedding_length") // n_heads if n_heads else 0
        k = keys.number("attention.key_length", n_embd_head)
        v = keys.number("attention.value_length", n_embd_head)
        return cls(k, v, keys.number("attention.key_length_swa", k), keys.number("attention.value_length_swa", v))


def _recurrent(keys: Keys, n_trunk: int, n_kv_heads: tuple[int, ...], n_ff: tuple[int, ...]) -> tuple[bool, ...]:
    architecture, n_layers = keys.architecture, len(n_kv_heads)
    if architecture in _RECURRENT or architecture == "falcon-h1":
        return (True,) * n_layers
    if architecture in _RECURRENT_WITHOUT_HEADS:
        return tuple(i < n_trunk and n == 0 for i, n in enumerate(n_kv_heads))
    if architecture in ("nemotron_h", "nemotron_h_moe"):
        return tuple(i < n_trunk and n_kv_heads[i] == 0 and n_ff[i] == 0 for i in range(n_layers))
    if architecture in _RECURRENT_BUT_EVERY_NTH:
        listed = keys.get("attention.recurrent_layers")
        if isinstance(listed, tuple) and len(listed) == n_layers:
            return tuple(map(bool, listed))
        period = keys.number("full_attention_interval", _RECURRENT_BUT_EVERY_NTH[architecture])
        return tuple(i < n_trunk and period > 0 and (i + 1) % period != 0 for i in range(n_layers))
    return (False,) * n_layers


def _has_kv(architecture: str, n_kv_heads: int, is_recurrent: bool) -> bool:
    """Falcon-H1's layers are both at once."""
    if architecture in _WITHOUT_A_CACHE or n_kv_heads == 0:
        return False
    return architecture == "falcon-h1" or not is_recurrent


def _shared(keys: Keys, n_layers: int) -> int:
    """How many of the last layers read keys and values of layers before them."""
    if keys.architecture == "gemma3n":
        return max(n_layers - _GEMMA3N_LAYERS_WITH_KV, 0)
    if keys.architecture != "gemma4":
        return 0
    return min(keys.number("attention.shared_kv_layers", 0), n_layers)
