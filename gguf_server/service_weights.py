"""Which model files a service needs, over all engines of its chain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import assert_never

from gguf_server.engines import projector_of
from gguf_server.settings import ServiceSettings
from gguf_server.settings.engines import (
    EngineSettings,
    LlamaCppEngineSettings,
    LlamaServerEngineSettings,
    OpenAIEngineSettings,
    VllmEngineSettings,
)
from weights.reference import HubRepo, Reference, parse, parse_model


def needed(service: ServiceSettings) -> tuple[Reference, ...]:
    """What has to be on this machine. Raises `WeightsMissing` for a reference of no known form."""
    return tuple(dict.fromkeys(reference for engine in service.engines for reference in _of_engine(engine, service)))


def _of_engine(engine: EngineSettings, service: ServiceSettings) -> Iterator[Reference]:
    match engine:
        case LlamaCppEngineSettings() | LlamaServerEngineSettings():
            if weights := service.weights or engine.weights:
                yield parse(weights)
            if projector := projector_of(engine, service):
                yield parse(projector)
        case VllmEngineSettings():
            if model := engine.model or service.weights:
                yield parse_model(model)
            for source in (engine.tokenizer, engine.hf_config_path):
                if source and source != model and not Path(source).expanduser().is_dir():
                    yield from _beside_weights(parse_model(source))
        case OpenAIEngineSettings():
            return
        case _:
            assert_never(engine)


def _beside_weights(reference: Reference) -> Iterator[Reference]:
    if isinstance(reference, HubRepo):
        yield HubRepo(reference.repo, reference.revision, with_weights=False)
