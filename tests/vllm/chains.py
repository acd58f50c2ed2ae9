"""Configurations of one service on real engines, and the program that serves it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli_w

from tests.e2e.client import Client, Json
from tests.e2e.program import Program, serving, until
from tests.vllm.environments import python_of
from tests.vllm.models import THINKER, THINKER_GGUF

VLLM = "vllm"
LLAMACPP = "llama.cpp"
MODEL = "thinker"
LOAD_S = 300.0
PROCESSES = {"api", "EngineCore", "Worker"}

# A GiB of cache is plenty for the small model, and nobody is asked for files.
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}

WORKER: Json = {"kind": "llamacpp", "device": "cpu"}


def vllm(environment: str = "plain", **settings: Any) -> Json:
    """An engine on the stand-in, with what makes a small model on two cores start soon."""
    return {
        "kind": "vllm",
        "python": str(python_of(environment)),
        "model": str(THINKER),
        "dtype": "bfloat16",
        "enforce_eager": True,
        "reasoning_parser": "qwen3",
        "tool_call_parser": "hermes",
        **settings,
    }


def service(*engines: Json, **settings: Any) -> Json:
    """A service that answers the same each time and thinks when it is told to; llama.cpp is its last engine."""
    return {
        "model": MODEL,
        "service_name": "thinker_service",
        "title": "Thinker API",
        "paths": [""],
        "weights": str(THINKER_GGUF),
        "max_model_len": 2048,
        "max_concurrent": 4,
        "enable_thinking": False,
        "sampling": {"temperature": 0.0},
        "engines": [*engines, WORKER],
        **settings,
    }


@dataclass(frozen=True, slots=True)
class Chain:
    """A service of a running program."""

    program: Program
    client: Client

    def status(self) -> Json:
        found: Json = self.client.get("/status").json()
        return found

    def engine(self, name: str = VLLM) -> Json:
        """What `/status` says of an engine."""
        (found,) = (engine for engine in self.status()["engines"] if engine["name"] == name)
        return dict(found)

    def serves_with(self, engine: str) -> None:
        """Wait until that engine answers."""

        def does() -> bool:
            answer = self.client.get("/health")
            return answer.status_code == 200 and answer.json()["engine"] == engine

        until(does, within_s=LOAD_S, what=f"an answer given by {engine}")

    def processes_of_vllm(self) -> dict[str, psutil.Process]:
        """The running ones by which of `PROCESSES` they are."""
        found = {}
        for process in self.program.descendants():
            try:
                line = process.cmdline()
            except psutil.Error:
                continue
            if line and line[0].startswith("VLLM::"):
                found[re.split(r"\W", line[0].removeprefix("VLLM::"))[0]] = process
            elif line[1:3] == ["-m", "vllm.entrypoints.cli.main"]:
                found["api"] = process
        return found


class Keeper:
    """Runs one program at a time, since each takes some gigabytes: asking for another ends the one before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = ""
        self._stack = ExitStack()
        self._program: Program | None = None

    def program(self, name: str, services: Mapping[str, Json], environment: Mapping[str, str] = ENVIRONMENT) -> Program:
        """The program of this name, which listens."""
        if self._program is None or self._name != name:
            self.close()
            folder = self._folder / name
            folder.mkdir(exist_ok=True)
            self._program = self._stack.enter_context(_running(folder, services, environment))
            self._name = name
        return self._program

    def chain(self, name: str, config: Json, environment: Mapping[str, str] = ENVIRONMENT) -> Chain:
        """A program with this one service."""
        program = self.program(name, {MODEL: config}, environment)
        return Chain(program, Client(program.url()))

    def close(self) -> None:
        self._program = None
        self._stack.close()


@contextmanager
def _running(folder: Path, services: Mapping[str, Json], environment: Mapping[str, str]) -> Iterator[Program]:
    (folder / "chain.toml").write_text(tomli_w.dumps({"server": {"log_level": "debug"}, "services": services}))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with serving(folder, "--config", "chain.toml") as program:
            program.listens()
            yield program
