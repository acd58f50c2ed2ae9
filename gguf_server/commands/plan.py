"""`gguf-server plan`: whether a model fits a card, part by part, what to change if not, and how fast it will be."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import typer

from gguf_server.commands.plan_card import AUTO, CPU, NoCard, PlanCard, choose
from gguf_server.commands.plan_text import Forecast, Said, as_lines
from weights import cpu_probe
from weights.gguf_header import DamagedHeader
from weights.gguf_model import GgufModel, read
from weights.memory_plan import LoadSettings, UnplannedModel, plan_memory
from weights.refs import WeightsMissing, resolve
from weights.speed_plan import SpeedPlan, plan_speed, plan_vllm_speed
from weights.vllm_memory import VllmSettings, plan_vllm
from weights.vllm_model import VllmModel, from_gguf, read_config

_DEFAULT_N_CTX: Final = 8192
_HUB_ID: Final = re.compile(r"(hf:)?[\w.-]+/[\w.-]+")
DOES_NOT_FIT: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What was asked. `n_ctx`: of one request; None: what the model was trained for, at most 8,192."""

    ref: str
    gpu: str
    on_vllm: bool
    n_ctx: int | None
    n_seqs: int
    n_ctx_total: int | None = None
    kv_type: str | None = None
    n_gpu_layers: int = -1
    mmproj: str | None = None
    gpu_memory_utilization: float = 0.92
    quantization: str | None = None
    enforce_eager: bool = False


class _CannotPlan(Exception):
    """The message is for whoever asked."""


def plan(request: PlanRequest, *, json_wanted: bool) -> int:
    """Print the plan. The exit status: 1 where none can be made, 3 where the model does not fit."""
    try:
        forecast = _forecast(request)
    except (_CannotPlan, NoCard) as error:
        typer.echo(str(error), err=True)
        return 1
    if json_wanted:
        typer.echo(json.dumps(_as_json(forecast), indent=2))
    else:
        for line in as_lines(forecast):
            typer.echo(line)
    return 0 if forecast.memory.fits else DOES_NOT_FIT


def _forecast(request: PlanRequest) -> Forecast:
    card = choose(request.gpu)
    try:
        if request.on_vllm:
            return _vllm(request, card)
        return _llamacpp(request, card)
    except UnplannedModel as error:
        raise _CannotPlan(f"{request.ref}: {error}") from error
    except ValueError as error:
        raise _CannotPlan(str(error)) from error


def _llamacpp(request: PlanRequest, card: PlanCard | None) -> Forecast:
    model = _gguf(request.ref)
    projector = None if request.mmproj is None else _gguf(request.mmproj, is_projector=True)
    n_ctx = request.n_ctx or min(model.n_ctx_train or _DEFAULT_N_CTX, _DEFAULT_N_CTX)
    kv_type = request.kv_type or "f16"
    settings = LoadSettings(
        n_ctx=n_ctx,
        n_seqs=request.n_seqs,
        n_ctx_total=request.n_ctx_total,
        type_k=kv_type,
        type_v=kv_type,
        n_gpu_layers=request.n_gpu_layers,
    )
    memory = plan_memory(model, settings, card, projector)
    context = max(n_ctx // 2, 1)
    speed = _speed(request, model, card, context, kv_type)
    return Forecast(
        model=model.name or model.path.name,
        card=card,
        engine="llama.cpp",
        settings={"n_ctx": n_ctx, "n_seqs": request.n_seqs, "kv_type": kv_type, "n_ctx_total": request.n_ctx_total},
        memory=memory,
        speed=speed,
        speed_context=context,
        notes=_notes(request, card, speed, on_card=_is_whole(request, model)),
    )


def _speed(
    request: PlanRequest, model: GgufModel, card: PlanCard | None, context: int, kv_type: str
) -> SpeedPlan | None:
    """Without a card that of this machine's processor, which is measured first. None where it is not known."""
    if card is None:
        return plan_speed(model, cpu_probe.measure(), context=context, type_k=kv_type, type_v=kv_type)
    if card.card is None or not _is_whole(request, model):
        return None
    return plan_speed(model, card.card, context=context, type_k=kv_type, type_v=kv_type)


def _is_whole(request: PlanRequest, model: GgufModel) -> bool:
    """Whether all of the model is on the card."""
    return request.n_gpu_layers < 0 or request.n_gpu_layers > model.n_layers


def _vllm(request: PlanRequest, card: PlanCard | None) -> Forecast:
    if card is None:
        raise _CannotPlan("vLLM is planned for a card: no NVIDIA card or driver is seen here, so name one with --gpu")
    model, gguf = _vllm_model(request)
    n_ctx = request.n_ctx or _DEFAULT_N_CTX
    settings = VllmSettings(
        max_model_len=n_ctx,
        max_num_seqs=request.n_seqs,
        gpu_memory_utilization=request.gpu_memory_utilization,
        kv_cache_dtype=request.kv_type or "auto",
        enforce_eager=request.enforce_eager,
        sees_images=model.sees_images,
    )
    planned = plan_vllm(model, settings, card)
    context, speed = max(n_ctx // 2, 1), None
    if gguf is not None and card.card is not None:
        speed = plan_vllm_speed(gguf, card.card, context=context)
    said = Said(planned.refusal, planned.kv_bytes, planned.n_requests, planned.n_kv_tokens)
    return Forecast(
        model=model.name,
        card=card,
        engine="vLLM",
        settings={
            "max_model_len": n_ctx,
            "max_num_seqs": request.n_seqs,
            "kv_cache_dtype": settings.kv_cache_dtype,
            "gpu_memory_utilization": settings.gpu_memory_utilization,
        },
        memory=planned.memory,
        speed=speed,
        speed_context=context,
        notes=_notes(request, card, speed, on_card=True),
        vllm=said,
    )


def _vllm_model(request: PlanRequest) -> tuple[VllmModel, GgufModel | None]:
    """A GGUF, or the config.json of a folder or of a checkpoint in the hub's cache."""
    config = _config_path(request.ref)
    if config is None:
        gguf = _gguf(request.ref)
        return from_gguf(gguf), gguf
    try:
        return replace(read_config(config, request.quantization), name=request.ref), None
    except OSError as error:
        raise _CannotPlan(f"{config}: {error.strerror}") from error


def _config_path(ref: str) -> Path | None:
    """None where `ref` is that of a file. A hub's id is OWNER/NAME."""
    path = Path(ref).expanduser()
    if path.is_dir():
        return path / "config.json"
    if path.exists() or not _HUB_ID.fullmatch(ref) or ref.endswith(".gguf"):
        return None
    try:
        return resolve(f"hf:{ref.removeprefix('hf:')}/config.json")
    except WeightsMissing as error:
        raise _CannotPlan(str(error)) from error


def _gguf(ref: str, *, is_projector: bool = False) -> GgufModel:
    try:
        path = resolve(ref)
    except WeightsMissing as error:
        raise _CannotPlan(str(error)) from error
    try:
        model = read(path)
    except DamagedHeader as error:
        raise _CannotPlan(f"{path}: {error}") from error
    except OSError as error:
        raise _CannotPlan(f"{path}: {error.strerror}") from error
    if is_projector != (model.kind == "mmproj"):
        raise _CannotPlan(
            f"{path.name} is {'no image encoder' if is_projector else f'no language model: {model.kind}'}"
        )
    return model


def _notes(request: PlanRequest, card: PlanCard | None, speed: SpeedPlan | None, *, on_card: bool) -> tuple[str, ...]:
    notes = []
    if card is None and request.gpu == AUTO:
        notes.append("no NVIDIA card or driver is seen here: planned for the CPU; --gpu KEY plans for a card")
    if card is None and request.gpu == CPU:
        notes.append("planned for the CPU")
    if card is not None and card.card is None:
        notes.append(f"{card.name} is not in the catalogue: its memory is known, its speed is not")
    if card is not None and card.used_bytes:
        notes.append(f"{card.used_bytes / (1 << 30):.2f} GiB of the card are in use now, and left out")
    if card is not None and not on_card:
        notes.append("with layers on the CPU no speed is predicted")
    if card is not None and on_card and card.card is not None and speed is None:
        notes.append("no speed is predicted for this engine and checkpoint")
    return tuple(notes)


def _as_json(forecast: Forecast) -> dict[str, Any]:
    memory, card, speed = forecast.memory, forecast.card, forecast.speed
    return {
        "model": forecast.model,
        "engine": forecast.engine,
        "card": None
        if card is None
        else {
            "name": card.name,
            "memory_bytes": card.memory_bytes,
            "used_bytes": card.used_bytes,
            "key": card.card.key if card.card else None,
        },
        "settings": dict(forecast.settings),
        "memory": {
            "parts": [asdict(part) for part in memory.parts],
            "gpu_bytes": memory.gpu_bytes,
            "host_bytes": memory.host_bytes,
            "fits": memory.fits,
            "margin_bytes": memory.margin_bytes,
            "advice": list(memory.advice),
        },
        "vllm": None if forecast.vllm is None else asdict(forecast.vllm),
        "speed": None if speed is None else {"context": forecast.speed_context, **asdict(speed)},
        "notes": list(forecast.notes),
    }
