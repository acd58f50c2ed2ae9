"""Plans for engines that are vLLM, from their settings and what is known of the model's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backends.base import EngineFailure
from backends.vllm.model_files import local_model, quantization_of
from backends.vllm.spec import VllmSpec
from gguf_server.planning import EnginePlan, MemoryNeed, Part, Room
from gguf_server.speeds import vllm_speed
from weights.gguf_header import DamagedHeader
from weights.gguf_model import GgufModel, read
from weights.refs import WeightsMissing, resolve
from weights.vllm_memory import VllmSettings, plan_vllm, request_bytes
from weights.vllm_model import VllmModel, from_gguf, read_config

_ERROR: Final = 0.1
"""Weights and KV cache are exact; a trial step, CUDA graphs and the image encoder are estimates."""
_NO_CARD: Final = "vLLM needs a card, and none is seen"
_WHICH_CARD: Final = "there are several cards, and cuda_device does not say which one"
_EMBEDS: Final = "no plan is made for models that embed texts"
_NOT_READ: Final = "extra_args change what is planned, so that the plan refuses nothing"
_NOT_FILLED: Final = {"KV cache", "CUDA context"}
_CHANGING: Final = (
    "--gpu-memory-utilization",
    "--kv-cache-memory",
    "--max-model-len",
    "--max-num",
    "--cpu-offload",
    "--tensor-parallel",
    "--pipeline-parallel",
    "--quantization",
    "--kv-cache-dtype",
    "--block-size",
    "--num-gpu-blocks",
    "-tp",
    "-pp",
    "-q",
)


@dataclass(frozen=True, slots=True)
class _Card:
    memory_bytes: int


def plan_vllm_engine(spec: VllmSpec, room: Room) -> EnginePlan:
    """Of one start of vLLM."""
    gap = _gap(spec, room)
    if gap is not None:
        return EnginePlan(gaps=(gap,))
    try:
        model, gguf = _model(spec)
    except (EngineFailure, WeightsMissing, DamagedHeader, OSError, ValueError) as error:
        return EnginePlan(gaps=(f"its files cannot be read: {_words(error)}",))
    changes = any(argument.startswith(_CHANGING) for argument in spec.extra_args)
    speed, why = vllm_speed(gguf, room, spec.max_model_len)
    gaps = [text for text in (why, _NOT_READ if changes else None) if text is not None]
    memory = _memory(model, spec, room)
    return EnginePlan(memory=memory, speed=speed, gaps=tuple(gaps), is_binding=not changes)


def _gap(spec: VllmSpec, room: Room) -> str | None:
    if spec.embeds:
        return _EMBEDS
    if not room.cards:
        return _NO_CARD
    return _WHICH_CARD if len(room.cards) > 1 else None


def _model(spec: VllmSpec) -> tuple[VllmModel, GgufModel | None]:
    """From a GGUF, or from the config.json of a checkpoint that is in a folder or in the hub's cache."""
    name = local_model(spec.model)
    path = Path(name)
    if path.is_file():
        gguf = read(path)
        return from_gguf(gguf), gguf
    config = path if path.is_dir() else resolve(f"hf:{name}/config.json")
    return read_config(config, quantization_of(spec)), None


def _memory(model: VllmModel, spec: VllmSpec, room: Room) -> MemoryNeed:
    """vLLM fills its share of the card; the least is one request of full length beside what is not cache."""
    settings = VllmSettings(
        max_model_len=spec.max_model_len,
        max_num_seqs=spec.max_num_seqs,
        gpu_memory_utilization=spec.gpu_memory_utilization,
        kv_cache_dtype=spec.kv_cache_dtype,
        enforce_eager=spec.enforce_eager,
        sees_images=spec.images_per_prompt > 0,
    )
    plan = plan_vllm(model, settings, _Card(room.cards[0].total_bytes))
    fixed = sum(part.gpu_bytes for part in plan.memory.parts if part.name not in _NOT_FILLED)
    return MemoryNeed(
        gpu_bytes=fixed + request_bytes(model, settings),
        host_bytes=0,
        parts=tuple(Part(part.name, part.gpu_bytes, part.host_bytes) for part in plan.memory.parts),
        gpu_share_bytes=plan.memory.gpu_bytes,
        error=_ERROR,
        advice=plan.memory.advice,
    )


def _words(error: Exception) -> str:
    return error.detail if isinstance(error, EngineFailure) else str(error)
