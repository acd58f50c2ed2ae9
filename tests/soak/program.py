"""The gateway under test: its configuration over fake engines, its keys, its start and its end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
import tomli_w

from tests.e2e.program import environment, free_ports
from tests.soak.stand_in import environment_with_vllm

N_WORDS: Final = 24
TOKEN_S: Final = 0.02
MAX_CONCURRENT: Final = 4
MAX_QUEUE: Final = 12
MAX_MODEL_LEN: Final = 2048
SERVICES: Final = {"first": "warm", "second": "cold"}
"""Name → standby."""

_ROOT: Final = Path(__file__).parents[2]
_START_S: Final = 60.0
_FAILOVER: Final = {
    "stall_s": 2.0,
    "probe_every_s": 2.0,
    "probe_timeout_s": 2.0,
    "failback_after_s": 0.5,
    "failback_longest_s": 2.0,
    "stable_after_s": 2.0,
}


def configuration(port: int, keys_file: Path, python: Path, *, max_queue: int = MAX_QUEUE) -> dict[str, Any]:
    """Two services, each a chain of two engines that answer alike."""
    flags = ["--fake", "--answer-words", str(N_WORDS), "--token-s", str(TOKEN_S)]
    engine = {"kind": "vllm", "python": str(python), "model": "soak/fake", "extra_args": flags, "load_timeout_s": 30}
    common = {
        "model": "fake",
        "max_model_len": MAX_MODEL_LEN,
        "max_concurrent": MAX_CONCURRENT,
        "max_queue": max_queue,
        "timeout_s": 30.0,
        "plan": "off",
        "failover": _FAILOVER,
        "engines": [{**engine, "name": "a"}, {**engine, "name": "b"}],
    }
    return {
        "server": {"port": port, "keys_file": str(keys_file), "log_format": "json", "drain_s": 20.0},
        "services": {
            name: {
                **common,
                "service_name": f"{name}_service",
                "title": name,
                "paths": [f"/{name}"],
                "standby": standby,
            }
            for name, standby in SERVICES.items()
        },
    }


@dataclass(slots=True)
class Program:
    """`tasks_file` holds the number of its event loop's tasks; `tokens` are keys by the name of their class."""

    folder: Path
    port: int
    python: Path
    tokens: dict[str, str]
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def keys_file(self) -> Path:
        return self.folder / "keys.json"

    @property
    def tasks_file(self) -> Path:
        return self.folder / "tasks"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def config_file(self) -> Path:
        return self.folder / "gguf-server.toml"

    def write_config(self, *, max_queue: int = MAX_QUEUE) -> None:
        tree = configuration(self.port, self.keys_file, self.python, max_queue=max_queue)
        self.config_file.write_text(tomli_w.dumps(tree))

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@asynccontextmanager
async def running(folder: Path, priorities: Mapping[str, str | None]) -> AsyncIterator[Program]:
    """A started gateway whose services are all ready. `priorities` of the keys, by the name of their class; None: none.

    Killed at the end if it still runs; what it leaves behind is for the caller to look for.
    """
    (port,) = free_ports(1)
    tokens = {name: _create_key(folder / "keys.json", name, priority) for name, priority in priorities.items()}
    program = Program(folder, port, environment_with_vllm(folder / "vllm"), tokens)
    program.write_config()
    process = program.process = _start(program)
    try:
        await _until_ready(program)
        yield program
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _create_key(keys_file: Path, name: str, priority: str | None) -> str:
    """Its token."""
    options = ["--keys-file", str(keys_file), *(["--priority", priority] if priority else [])]
    argv = [sys.executable, "-m", "gguf_server", "keys", "create", name, *options]
    done = subprocess.run(argv, cwd=_ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return done.stdout.strip()


def _start(program: Program) -> subprocess.Popen[bytes]:
    argv = ["tests.soak.watched", str(program.tasks_file), "serve", "--config", str(program.config_file)]
    env = {**environment(program.folder, None), "PYTHONPATH": str(_ROOT), "HF_HUB_OFFLINE": "1"}
    with program.log.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *argv], cwd=program.folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


async def _until_ready(program: Program) -> None:
    async with asyncio.timeout(_START_S), aiohttp.ClientSession() as session:
        for name in SERVICES:
            while not await _is_healthy(session, f"{program.url}/{name}/health"):
                if program.process.poll() is not None:
                    raise SystemExit(f"the gateway ended:\n{program.log.read_text()}")
                await asyncio.sleep(0.05)


async def _is_healthy(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False
