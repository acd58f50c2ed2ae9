"""What a model takes of a card under vLLM, by vLLM's own rules (`Worker.determine_available_memory`, 0.33).

It claims `gpu_memory_utilization` of what CUDA has of the card, refuses to start where less than that is free, puts the
weights and what a trial step needs into it, and makes everything that is left the KV cache. It refuses with ValueError
where nothing is left, and where one request of `max_model_len` would not find room. Weights and KV cache are exact; the
trial step, CUDA graphs and the image encoder are estimates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from weights.memory_plan import MIB, CardMemory, MemoryPart, MemoryPlan, usable_bytes
from weights.vllm_model import KvLayer, VllmModel

_GIB: Final = 1 << 30
_CONTEXT_BYTES: Final = 300 * MIB
"""CUDA and torch before vLLM looks at what is free: it has to fit beside the claim."""
_OTHER_BYTES: Final = 150 * MIB
"""What is not torch's: kernels that are loaded later, workspaces."""
_GRAPH_BYTES: Final = 256 * MIB
_IMAGE_TRIAL_BYTES: Final = 512 * MIB
_BLOCK_TOKENS: Final = 16
_BATCHED_TOKENS: Final = 2048
"""`max_num_batched_tokens` of a server, on cards under 70 GiB."""
_CONCURRENT_BATCHES: Final = 2
"""The next step is prepared while one is computed; the tokens of both hold blocks."""
_LOGIT_COPIES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSettings:
    """As in `vllm serve`; `sees_images`: images are asked for, so that the encoder has its trial run too."""

    max_model_len: int
    max_num_seqs: int
    gpu_memory_utilization: float = 0.92
    kv_cache_dtype: str = "auto"
    max_num_batched_tokens: int | None = None
    enforce_eager: bool = False
    sees_images: bool = False

    def __post_init__(self) -> None:
        if self.max_model_len < 1 or self.max_num_seqs < 1:
            raise ValueError("max_model_len and max_num_seqs have to be at least 1")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError("gpu_memory_utilization is a share, from 0 to 1")

    @property
    def n_step_tokens(self) -> int:
        return self.max_num_batched_tokens or min(_BATCHED_TOKENS, self.max_num_seqs * self.max_model_len)

    @property
    def value_bytes(self) -> int:
        return 1 if self.kv_cache_dtype.startswith("fp8") else 2


@dataclass(frozen=True, slots=True)
class VllmPlan:
    """`memory` as for llama.cpp, its margin counted from the KV cache that one request needs. `refusal`: what vLLM
    would say instead of starting. `kv_bytes` is what is left for the cache, `n_requests` how many requests of full
    length it holds, and `n_kv_tokens` how many tokens, where every layer keeps all of them.
    """

    memory: MemoryPlan
    refusal: str | None
    kv_bytes: int
    n_requests: float
    n_kv_tokens: int | None


def plan_vllm(model: VllmModel, settings: VllmSettings, card: CardMemory) -> VllmPlan:
    plan = _plan(model, settings, card)
    if plan.refusal is None:
        return plan
    return replace(plan, memory=replace(plan.memory, advice=tuple(_advice(model, settings, card)) or (_TOO_LARGE,)))


_TOO_LARGE: Final = "no setting makes it fit: take a smaller checkpoint or a stronger quantisation"


def _plan(model: VllmModel, settings: VllmSettings, card: CardMemory) -> VllmPlan:
    usable = usable_bytes(card)
    claim = int(settings.gpu_memory_utilization * usable)
    parts = list(_fixed_parts(model, settings))
    left = claim - sum(part.gpu_bytes for part in parts)
    needed = request_bytes(model, settings)
    refusal = _refusal(usable, claim, left, needed, settings)
    kept = max(left, 0)
    parts += [MemoryPart("KV cache", kept, 0), MemoryPart("CUDA context", _CONTEXT_BYTES, 0)]
    margin = min(left - needed, usable - _CONTEXT_BYTES - claim)
    all_keep_everything = all(layer.sliding_window is None for layer in model.kv_layers)
    in_a_token = sum(layer.width for layer in model.kv_layers) * settings.value_bytes
    n_tokens = kept // (in_a_token * _BLOCK_TOKENS) * _BLOCK_TOKENS if in_a_token and all_keep_everything else None
    return VllmPlan(MemoryPlan(tuple(parts), margin), refusal, kept, kept / needed if needed else 0.0, n_tokens)


def _fixed_parts(model: VllmModel, settings: VllmSettings) -> Iterator[MemoryPart]:
    for name, n_bytes in model.weight_bytes.items():
        yield MemoryPart(name, n_bytes, 0)
    yield MemoryPart("trial step", _trial_bytes(model, settings), 0)
    if settings.sees_images and model.sees_images:
        yield MemoryPart("trial image", _IMAGE_TRIAL_BYTES, 0)
    if not settings.enforce_eager:
        yield MemoryPart("CUDA graphs", _GRAPH_BYTES, 0)
    yield MemoryPart("kernels and workspaces", _OTHER_BYTES, 0)


def _trial_bytes(model: VllmModel, settings: VllmSettings) -> int:
    """A step's hidden state and residual, and gate, up and their product; then the logits in several copies."""
    hidden = 2 * settings.n_step_tokens * (2 * model.n_embd + 3 * model.n_ff)
    logits = 4 * settings.max_num_seqs * model.n_vocab * _LOGIT_COPIES
    return hidden + logits


def request_bytes(model: VllmModel, settings: VllmSettings) -> int:
    """Of the KV cache, for one request of `max_model_len`."""
    return sum(_layer_bytes(layer, settings) for layer in model.kv_layers)


def _layer_bytes(layer: KvLayer, settings: VllmSettings) -> int:
    n_tokens = settings.max_model_len
    if layer.sliding_window is None:
        n_blocks = -(-n_tokens // _BLOCK_TOKENS)
    else:
        in_flight = _CONCURRENT_BATCHES * settings.n_step_tokens
        n_blocks = -(-min(layer.sliding_window - 1 + in_flight, n_tokens) // _BLOCK_TOKENS) + 1
    return n_blocks * _BLOCK_TOKENS * layer.width * settings.value_bytes


def _refusal(usable: int, claim: int, left: int, needed: int, settings: VllmSettings) -> str | None:
    """vLLM's reasons, in the order it finds them; None where it starts."""
    free = usable - _CONTEXT_BYTES
    if free < claim:
        return (
            f"ValueError: free memory on startup ({_gib(free)}) is less than the desired GPU memory utilization"
            f" ({settings.gpu_memory_utilization:g}, {_gib(claim)})"
        )
    if left <= 0:
        return f"ValueError: no available memory for the cache blocks ({_gib(-left)} too little)"
    if left < needed:
        return (
            f"ValueError: one request of {settings.max_model_len} tokens needs {_gib(needed)} of KV cache,"
            f" and {_gib(left)} is available"
        )
    return None


def _advice(model: VllmModel, settings: VllmSettings, card: CardMemory) -> Iterator[str]:
    """Each change alone, where it makes vLLM start."""
    usable = usable_bytes(card)
    most = int((usable - _CONTEXT_BYTES) / usable * 100) / 100
    changes = {
        f"gpu_memory_utilization = {most:g}": replace(settings, gpu_memory_utilization=most),
        "kv_cache_dtype = fp8": replace(settings, kv_cache_dtype="fp8"),
        "enforce_eager": replace(settings, enforce_eager=True),
        "kv_cache_dtype = fp8 and enforce_eager": replace(settings, kv_cache_dtype="fp8", enforce_eager=True),
    }
    shorter = _longest(model, settings, card)
    if shorter is not None:
        changes[f"max_model_len = {shorter.max_model_len}"] = shorter
    for words, changed in changes.items():
        plan = _plan(model, changed, card)
        if changed != settings and plan.refusal is None:
            yield f"{words}: {_gib(plan.kv_bytes)} of KV cache, {plan.n_requests:.1f} requests of full length"


def _longest(model: VllmModel, settings: VllmSettings, card: CardMemory) -> VllmSettings | None:
    low, high = 0, settings.max_model_len // _BLOCK_TOKENS
    while low < high:
        middle = (low + high + 1) // 2
        changed = replace(settings, max_model_len=middle * _BLOCK_TOKENS)
        if _plan(model, changed, card).refusal is None:
            low = middle
        else:
            high = middle - 1
    return replace(settings, max_model_len=low * _BLOCK_TOKENS) if low else None


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / _GIB:.2f} GiB"
