"""Plans for engines that are llama.cpp: the worker here and llama-server, from their settings and the GGUF's header."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Final

from backends.llama_server import LlamaServerSpec
from backends.llamacpp_build import ask_build
from backends.llamacpp_engine import LlamaCppSpec
from gguf_server.planning import EnginePlan, ExpectedSpeed, MemoryNeed, Part, Room
from gguf_server.speeds import card_speed, processor_speed
from weights.gguf_header import DamagedHeader
from weights.gguf_model import GgufModel, read
from weights.load_settings import LoadSettings
from weights.memory_advice import advise
from weights.memory_plan import plan_memory
from weights.refs import WeightsMissing, resolve

MEMORY_ERROR: Final = 0.1
"""The planner is within 5 % of llama.cpp's own words in each part; a load goes through states of its own."""
_WORKER_BYTES: Final = 130 << 20
"""Interpreter, libraries, the vocabulary's tables, guard and template process: 127 to 133 MiB of RSS over the rest."""
_SERVER_BYTES: Final = 30 << 20
_SERVER_BATCH: Final = 2048  # its default
_NO_OFFLOAD: Final = (
    "a card is there, and this build of llama-cpp-python cannot compute on it: reinstall it with"
    " CMAKE_ARGS=-DGGML_CUDA=on"
)
_NOT_READ: Final = "extra_args may change what is planned, so that the plan refuses nothing"
_EMBEDS: Final = "no plan is made for models that embed texts"
_WORDS: Final = "what would fit (n_ctx is max_model_len here, sequences are n_parallel)"


@dataclass(frozen=True, slots=True)
class _CardMemory:
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Where:
    """What an engine computes on; `n_program_bytes`: what it takes of the host beside llama.cpp."""

    room: Room
    on_card: bool
    n_threads: int | None
    n_program_bytes: int


@dataclass(frozen=True, slots=True)
class _OnHost:
    """A plan without a card, as advice wants to see it."""

    gpu_bytes: int
    margin_bytes: int

    @property
    def fits(self) -> bool:
        return self.margin_bytes >= 0


def plan_worker(spec: LlamaCppSpec, room: Room) -> EnginePlan:
    """Of one start of the worker here."""
    if spec.embeds:
        return EnginePlan(gaps=(_EMBEDS,))
    settings = LoadSettings(
        n_ctx=spec.n_ctx,
        n_seqs=spec.n_parallel,
        n_ctx_total=spec.n_ctx_total,
        n_batch=spec.n_batch,
        n_ubatch=spec.n_ubatch,
        type_k=spec.cache_type_k,
        type_v=spec.cache_type_v,
        n_gpu_layers=spec.n_gpu_layers,
        flash_attn=spec.flash_attn,
    )
    has_card = bool(room.cards) and spec.device != "cpu"
    cannot = has_card and spec.device == "auto" and not can_offload()
    on_card = has_card and not cannot
    where = _Where(room=room, on_card=on_card, n_threads=spec.n_threads, n_program_bytes=_WORKER_BYTES)
    plan = _plan(spec.weights, spec.mmproj, settings, where)
    return replace(plan, concerns=(_NO_OFFLOAD,)) if cannot else plan


def plan_llama_server(spec: LlamaServerSpec, room: Room) -> EnginePlan:
    """Of one start of llama-server. What its build computes on is not known here: only `cuda` demands a card."""
    settings = LoadSettings(n_ctx=spec.n_ctx, n_seqs=spec.n_parallel, unified=False, n_batch=_SERVER_BATCH)
    settings = replace(settings, n_gpu_layers=spec.n_gpu_layers)
    on_card = bool(room.cards) and spec.device != "cpu"
    where = _Where(room=room, on_card=on_card, n_threads=spec.n_threads, n_program_bytes=_SERVER_BYTES)
    plan = _plan(spec.weights, spec.mmproj, settings, where)
    is_sure = not spec.extra_args and (spec.device != "auto" or not on_card)
    return replace(plan, is_binding=is_sure, gaps=(*plan.gaps, *((_NOT_READ,) if spec.extra_args else ())))


@cache
def can_offload() -> bool:
    """Whether the llama.cpp inside llama-cpp-python sees a card. Blocks for a second; asked once in a process."""
    return ask_build().can_offload


def _plan(weights: str, mmproj: str | None, settings: LoadSettings, where: _Where) -> EnginePlan:
    try:
        model = read(resolve(weights))
        projector = _projector(mmproj)
    except (WeightsMissing, DamagedHeader, OSError) as error:
        return EnginePlan(gaps=(f"the weights cannot be read: {error}",))
    memory, unplanned = None, None
    try:
        memory = _memory(model, settings, where, projector)
    except ValueError as error:
        unplanned = f"its memory is not known beforehand: {error}"
    known = EnginePlan(memory=memory, gaps=() if unplanned is None else (unplanned,))
    if where.on_card:
        return _with_speed(known, *card_speed(model, settings, where.room))
    return replace(known, later=partial(_with_processor_speed, model, settings, where.n_threads))


def _with_processor_speed(
    model: GgufModel, settings: LoadSettings, n_threads: int | None, plan: EnginePlan
) -> EnginePlan:
    return _with_speed(replace(plan, later=None), *processor_speed(model, settings, n_threads))


def _with_speed(plan: EnginePlan, speed: ExpectedSpeed | None, gap: str | None) -> EnginePlan:
    return replace(plan, speed=speed, gaps=plan.gaps if gap is None else (*plan.gaps, gap))


def _projector(mmproj: str | None) -> GgufModel | None:
    """The engine starts without it where it is missing."""
    try:
        return None if mmproj is None else read(resolve(mmproj))
    except WeightsMissing:
        return None


def _memory(model: GgufModel, settings: LoadSettings, where: _Where, projector: GgufModel | None) -> MemoryNeed:
    room = where.room
    free = room.gpu_free_bytes if where.on_card else None
    plan = plan_memory(model, settings, None if free is None else _CardMemory(free), projector)
    parts = [Part(part.name, part.gpu_bytes, part.host_bytes) for part in plan.parts]
    parts.append(Part("program", 0, where.n_program_bytes))
    host_bytes = sum(part.host_bytes for part in parts)
    advice = plan.advice
    if not where.on_card and room.host_free_bytes is not None and host_bytes > room.host_free_bytes:
        advice = _host_advice(model, settings, room.host_free_bytes - where.n_program_bytes, projector)
    return MemoryNeed(
        gpu_bytes=plan.gpu_bytes,
        host_bytes=host_bytes,
        parts=tuple(parts),
        error=MEMORY_ERROR,
        advice=(_WORDS + ": " + " | ".join(advice),) if advice else (),
    )


def _host_advice(
    model: GgufModel, settings: LoadSettings, free_bytes: int, projector: GgufModel | None
) -> tuple[str, ...]:
    def on_host(changed: LoadSettings) -> _OnHost:
        n_bytes = plan_memory(model, changed, None, projector).host_bytes
        return _OnHost(n_bytes, free_bytes - n_bytes)

    return advise(settings, model.n_layers, on_host)
