"""What the planner says of a run beforehand, by the name of the figure that it predicts.

Nothing is predicted of what the planner does not know: other formats than GGUF, queues, caches that already hold a
prompt. Memory is that of a loaded engine, on the card where it computes there, else of the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from bench.measuring.gpus import Card
from bench.records.record import ClosedLoad, Predicted
from bench.servers.recipes import Recipe
from bench.suites.schedule import Slot
from weights import cards, cpu_probe
from weights.gguf_header import DamagedHeader
from weights.gguf_model import GgufModel, read
from weights.load_settings import LoadSettings
from weights.memory_plan import UnplannedModel, plan_memory
from weights.refs import WeightsMissing, resolve
from weights.speed_plan import SpeedPlan, plan_speed, plan_vllm_speed
from weights.vllm_memory import VllmSettings, plan_vllm
from weights.vllm_model import VllmModel, from_gguf, read_config

RSS_LOADED: Final = "rss_loaded_bytes"
"""Before anybody but the warm-up has asked: what caches of prompts take later is not in a plan."""
_GATEWAY_BYTES: Final = 60 << 20
_MEMORY_ERROR: Final = 0.1
_SHORT_PROMPT: Final = 100
_LONG_PROMPT: Final = 256
"""Tokens: before that, the time to the first token is not that of the prompt's arithmetic."""
_PROGRAM_BYTES: Final[Mapping[str, int]] = {"llamacpp": 130 << 20, "llama-server": 30 << 20}
"""Interpreter, libraries and tables of the engines that the planner knows: what they hold beside the plan."""


def predicted(recipe: Recipe, slot: Slot, card: Card | None, n_threads: int) -> Mapping[str, Predicted]:
    """`card` is the one it computes on; without, the processor with so many threads. Blocks for a second at most."""
    return {**predicted_memory(recipe, card), **predicted_speed(recipe, slot, card, n_threads)}


def predicted_memory(recipe: Recipe, card: Card | None) -> Mapping[str, Predicted]:
    """May read the header of a file."""
    kind = str(recipe.settings.get("kind"))
    if recipe.n_ctx_seq is None or recipe.n_parallel is None:
        return {}
    try:
        if kind == "vllm" and card is not None:
            return _memory_of_vllm(recipe, card, recipe.n_ctx_seq, recipe.n_parallel)
        if (model := model_of(recipe)) is None or kind not in _PROGRAM_BYTES:
            return {}
        projector = _read_projector(recipe.settings.get("mmproj"))
        settings = load_settings(recipe.settings, recipe.n_ctx_seq, recipe.n_parallel)
        plan = plan_memory(model, settings, card, projector)
    except (UnplannedModel, WeightsMissing, ValueError, OSError):
        return {}
    if card is not None:
        return {"gpu_peak_bytes": Predicted(float(plan.gpu_bytes), _MEMORY_ERROR)}
    n_bytes = plan.host_bytes + _PROGRAM_BYTES[kind] + (_GATEWAY_BYTES if recipe.has_gateway else 0)
    return {RSS_LOADED: Predicted(float(n_bytes), _MEMORY_ERROR)}


def _memory_of_vllm(recipe: Recipe, card: Card, n_ctx: int, n_seqs: int) -> Mapping[str, Predicted]:
    """Raises `WeightsMissing`, `ValueError`, `OSError`."""
    given = recipe.settings
    settings = VllmSettings(
        max_model_len=n_ctx,
        max_num_seqs=given.get("max_num_seqs", n_seqs),
        gpu_memory_utilization=given["gpu_memory_utilization"],
        kv_cache_dtype=given.get("kv_cache_dtype", "auto"),
        enforce_eager=given.get("enforce_eager", False),
        sees_images=bool(given.get("images_per_prompt")),
    )
    plan = plan_vllm(_checkpoint(recipe), settings, card)
    return {"gpu_peak_bytes": Predicted(float(plan.memory.gpu_bytes), _MEMORY_ERROR)}


def _checkpoint(recipe: Recipe) -> VllmModel:
    """From the GGUF that it serves, or the checkpoint's configuration in the hub's cache. Raises `WeightsMissing`."""
    if (model := model_of(recipe)) is not None:
        return from_gguf(model)
    path = resolve(f"hf:{recipe.settings.get('model', '')}/config.json")
    return read_config(path, recipe.settings.get("quantization"))


def predicted_speed(recipe: Recipe, slot: Slot, card: Card | None, n_threads: int) -> Mapping[str, Predicted]:
    """Of one stream alone. Without a card the processor is tried out, once in a process and for a third of a second."""
    model = model_of(recipe)
    kind = str(recipe.settings.get("kind"))
    if model is None or kind not in (*_PROGRAM_BYTES, "vllm") or slot.load != ClosedLoad(1):
        return {}
    known = cpu_probe.measure(n_threads) if card is None else cards.find(card.name, card.memory_bytes)
    if known is None:
        return {}
    n_prompt, n_output = (_number(slot.workload.options.get(name)) for name in ("n_prompt", "max_tokens"))
    plan = _speed(recipe, model, known, context=(n_prompt or _SHORT_PROMPT) + n_output // 2)
    if plan is None:
        return {}
    found = {"decode_tok_per_s_p50": Predicted(plan.decode_tokens_per_s, plan.decode_relative_error)}
    if n_prompt >= _LONG_PROMPT and (plan := _speed(recipe, model, known, context=n_prompt)) is not None:
        found["prefill_tok_per_s_p50"] = Predicted(plan.prompt_tokens_per_s, plan.prompt_relative_error)
    return found


def _number(option: object) -> int:
    return option if isinstance(option, int) else 0


def _speed(recipe: Recipe, model: GgufModel, card: cards.Card, *, context: int) -> SpeedPlan | None:
    settings = recipe.settings
    types = {key: settings.get(f"cache_{key}", "f16") for key in ("type_k", "type_v")}
    try:
        if settings.get("kind") == "vllm":
            return plan_vllm_speed(model, card, context=context)
        return plan_speed(model, card, context=context, **types)
    except ValueError:
        return None


def load_settings(settings: Mapping[str, Any], n_ctx_seq: int, n_parallel: int) -> LoadSettings:
    """As the engine's table of the configuration has them, and llama-server's own where it is that.

    Raises `ValueError` for what cannot be.
    """
    is_server = settings.get("kind") == "llama-server"
    defaults = LoadSettings(n_ctx=n_ctx_seq, n_batch=2048 if is_server else 512, unified=False if is_server else None)
    return LoadSettings(
        n_ctx=n_ctx_seq,
        n_seqs=settings.get("n_parallel", n_parallel),
        n_ctx_total=settings.get("n_ctx_total"),
        unified=defaults.unified,
        n_batch=settings.get("n_batch", defaults.n_batch),
        n_ubatch=settings.get("n_ubatch", defaults.n_ubatch),
        type_k=settings.get("cache_type_k", defaults.type_k),
        type_v=settings.get("cache_type_v", defaults.type_v),
        n_gpu_layers=settings.get("n_gpu_layers", defaults.n_gpu_layers),
        flash_attn=settings.get("flash_attn", defaults.flash_attn),
    )


def model_of(recipe: Recipe) -> GgufModel | None:
    """None where it serves no GGUF that can be read."""
    return _read(recipe.file) if recipe.file is not None and recipe.file.suffix == ".gguf" else None


@lru_cache(maxsize=8)
def _read(path: Path) -> GgufModel | None:
    try:
        return read(path)
    except (DamagedHeader, OSError):
        return None


def _read_projector(ref: str | None) -> GgufModel | None:
    """The engine starts without one that is missing."""
    try:
        return _read(resolve(ref)) if ref else None
    except WeightsMissing:
        return None
