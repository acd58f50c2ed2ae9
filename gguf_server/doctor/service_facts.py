"""Which engines the services are made of, and what would keep each from starting."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backends.base import Engine, EngineFailure, FailureReason
from backends.external import ExternalEngine
from backends.supervised import SupervisedEngine
from backends.vllm.interpreter import Installed, installed
from backends.vllm.model_files import quantization_of
from backends.vllm.plugins import MAY_NEED
from backends.vllm.spec import Quantization
from gguf_server import engines
from gguf_server.settings import ServiceSettings, Settings
from gguf_server.settings.engines import EngineSettings, VllmEngineSettings

_REMOTE_LIMIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Vllm:
    """What one engine needs of an interpreter. `found` None: it does not answer, for the reason in `failure`."""

    python: str
    quantization: Quantization | None
    found: Installed | None
    failure: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """`failure` is what a start would end with, in one sentence; None where nothing is known against it."""

    name: str
    kind: str
    device: str
    failure: str | None = None
    vllm: Vllm | None = None


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """`engines` in the order of the chain."""

    name: str
    engines: tuple[EngineFacts, ...]


async def look(settings: Settings) -> tuple[ServiceFacts, ...]:
    """Engines are planned and not started; a server that somebody else runs is asked for one token."""
    with tempfile.TemporaryDirectory(prefix="gguf-doctor-") as folder:
        return tuple([await _service(name, of, Path(folder)) for name, of in settings.services.items()])


async def _service(name: str, service: ServiceSettings, folder: Path) -> ServiceFacts:
    built = zip(service.engines, engines.build(service, folder), strict=True)
    return ServiceFacts(name, tuple([await _engine(of, engine, service) for of, engine in built]))


async def _engine(of: EngineSettings, engine: Engine, service: ServiceSettings) -> EngineFacts:
    failure = await _failure(engine)
    vllm = None
    if isinstance(of, VllmEngineSettings):
        vllm = await asyncio.to_thread(_vllm, of, service)
    return EngineFacts(engine.name, engine.kind, engine.device, failure.detail if failure else None, vllm)


async def _failure(engine: Engine) -> EngineFailure | None:
    if isinstance(engine, SupervisedEngine):
        return await asyncio.to_thread(engine.obstacle)
    return await _remote_failure(engine) if isinstance(engine, ExternalEngine) else None


async def _remote_failure(engine: ExternalEngine) -> EngineFailure | None:
    try:
        async with asyncio.timeout(_REMOTE_LIMIT_S):
            await engine.start()
    except EngineFailure as failure:
        return failure
    except TimeoutError:
        return EngineFailure(FailureReason.START_TIMEOUT, f"no answer within {_REMOTE_LIMIT_S:g} s")
    finally:
        await engine.stop()
    return None


def _vllm(of: VllmEngineSettings, service: ServiceSettings) -> Vllm:
    python = str(of.python or sys.executable)
    quantization = quantization_of(engines.vllm_spec(of, service))
    try:
        found = installed(python, MAY_NEED.get(quantization, ()))
    except EngineFailure as failure:
        return Vllm(python, quantization, None, failure.detail)
    return Vllm(python, quantization, found, environ=os.environ)
