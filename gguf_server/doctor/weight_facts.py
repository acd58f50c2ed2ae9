"""The model files that llama.cpp's engines are to load, as far as they are here; and what vLLM is to fetch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gguf_server import engines
from gguf_server.settings import Settings
from gguf_server.settings.engines import LlamaCppEngineSettings, LlamaServerEngineSettings, VllmEngineSettings
from weights.gguf_header import DamagedHeader
from weights.gguf_model import GgufModel, read
from weights.refs import WeightsDamaged, WeightsMissing, resolve

Role = Literal["model", "projector", "repository"]


@dataclass(frozen=True, slots=True)
class Weights:
    """`missing` or `damaged` say why there is no `model`; a repository that is here has none of them.

    `n_ctx` is the context that services give the model, `partner` the model that a projector is to go with.
    """

    ref: str
    role: Role
    model: GgufModel | None = None
    missing: str | None = None
    damaged: str | None = None
    n_ctx: int = 0
    partner: GgufModel | None = None


def look(settings: Settings) -> tuple[Weights, ...]:
    """Each file once. Blocks as `weights.refs.resolve` does."""
    wanted: dict[tuple[str, Role], Weights] = {}
    for found in _of_services(settings):
        known = wanted.get((found.ref, found.role))
        if known is None or found.n_ctx > known.n_ctx:
            wanted[found.ref, found.role] = found
    return tuple(wanted.values())


def _of_services(settings: Settings) -> Iterator[Weights]:
    for service in settings.services.values():
        for engine in service.engines:
            if isinstance(engine, LlamaCppEngineSettings | LlamaServerEngineSettings):
                model = _file(service.weights or engine.weights or "", "model", n_ctx=service.max_model_len)
                yield model
                if projector := engines.projector_of(engine, service):
                    yield _file(projector, "projector", partner=model.model)
            elif isinstance(engine, VllmEngineSettings) and is_hub_id(engine.model or ""):
                yield _repository(engine.model or "")


def is_hub_id(ref: str) -> bool:
    """`OWNER/NAME`, as vLLM fetches it."""
    return ref.count("/") == 1 and not ref.startswith(("hf:", "pkg:", "/", ".", "~")) and not ref.endswith(".gguf")


def _file(ref: str, role: Role, *, n_ctx: int = 0, partner: GgufModel | None = None) -> Weights:
    try:
        model = read(resolve(ref))
    except (WeightsDamaged, DamagedHeader) as error:
        return Weights(ref, role, damaged=str(error), n_ctx=n_ctx, partner=partner)
    except WeightsMissing as error:
        return Weights(ref, role, missing=str(error), n_ctx=n_ctx, partner=partner)
    except OSError as error:
        return Weights(ref, role, damaged=error.strerror or str(error), n_ctx=n_ctx, partner=partner)
    return Weights(ref, role, model, n_ctx=n_ctx, partner=partner)


def _repository(name: str) -> Weights:
    from huggingface_hub import try_to_load_from_cache

    repo = name.partition(":")[0]
    try:
        found = try_to_load_from_cache(repo, "config.json")
    except (OSError, ValueError) as error:
        return Weights(name, "repository", damaged=str(error))
    if isinstance(found, str) and Path(found).is_file():
        return Weights(name, "repository")
    return Weights(name, "repository", missing="vLLM fetches it when it first starts")
