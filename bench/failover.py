"""What people notice when the engine that serves them is killed: `python -m bench.failover [--standby warm|cold]`.

Starts `gguf-server` with two llama.cpp workers on the same model, lets some streams run undisturbed, then again with
`kill -9` of the serving worker in their middle. A stream counts as broken that ends with an error or not at all; texts
are greedy, so that a difference to the undisturbed run shows where the new engine decided otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import psutil

_READY_S = 300.0
# An answer in which the next token is hardly ever in doubt, and a word that is lost or doubled is seen.
_PROMPT = "Count upwards from {first}, one number after the other, separated by commas: {first},"
_UNSEEN = "{first} is where to count from upwards, one number after the other, separated by commas: {text}"
_CONFIG = """
[services.demo]
standby = "{standby}"
max_concurrent = {streams}

[services.demo.failover]
failback = false
"""
_ENGINE = """
[[services.demo.engines]]
kind = "llamacpp"
name = "{name}"
n_ctx_total = {cells}
"""


@dataclass(slots=True)
class Stream:
    """One answer as its client saw it. Times in seconds of the loop's clock; `gap_s`: the longest silence in it."""

    text: str = ""
    error: str | None = None
    is_done: bool = False
    ids: set[str] = field(default_factory=set)
    engines: list[str] = field(default_factory=list)
    chunk_s: list[float] = field(default_factory=list)
    n_chars: list[int] = field(default_factory=list)

    @property
    def is_broken(self) -> bool:
        return self.error is not None or not self.is_done

    @property
    def gap_s(self) -> float:
        return max((later - earlier for earlier, later in pairwise(self.chunk_s)), default=0.0)

    @property
    def before_gap(self) -> str:
        """What had been said before the longest silence."""
        gaps = [later - earlier for earlier, later in pairwise(self.chunk_s)]
        return self.text[: self.n_chars[gaps.index(max(gaps))]] if gaps else ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one kill under load. `n_same`: texts equal to the undisturbed run's; `longest_gap_s` over all streams.

    `standby_prefill_s`: what the new worker takes for as many prompts of the same length that it has not seen.
    """

    standby: str
    n_streams: int
    n_broken: int
    n_moved: int
    n_same: int
    n_same_undisturbed: int
    longest_gap_s: float
    median_gap_s: float
    standby_prefill_s: float
    longest_gap_undisturbed_s: float


async def main(arguments: Sequence[str]) -> None:
    options = _options(arguments)
    outcomes = []
    for standby in options.standby:
        for number in range(options.repeat):
            outcome = await measure(standby, options.streams, options.max_tokens, options.kill_after, number)
            outcomes.append(asdict(outcome))
            print(json.dumps(outcomes[-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(outcomes, indent=1))


async def measure(standby: str, n_streams: int, max_tokens: int, kill_after: int, number: int) -> Outcome:
    """`kill_after`: chunks of the first stream, after which its worker is killed; `number`: of the repetition."""
    async with _server(standby, n_streams) as (session, url):
        prompts = [_PROMPT.format(first=100 * i + 10 * number + 1) for i in range(n_streams)]

        async def run(kill: bool = False) -> list[Stream]:
            reached = asyncio.Event()
            streams = [Stream() for _ in prompts]
            asking = [
                asyncio.create_task(_ask(session, url, text, max_tokens, stream, kill_after, reached))
                for text, stream in zip(prompts, streams, strict=True)
            ]
            await reached.wait()
            if kill:
                await _kill_serving(session, url)
            await asyncio.gather(*asking)
            return streams

        await run()  # the prompts are in the cache from here on, in both runs alike
        calm, again, disturbed = await run(), await run(), await run(kill=True)
        as_long = [_UNSEEN.format(first=first, text=stream.before_gap) for first, stream in enumerate(disturbed, 9000)]
        prefill = [Stream() for _ in as_long]
        begun = asyncio.get_running_loop().time()
        nobody = asyncio.Event()
        await asyncio.gather(
            *(_ask(session, url, text, 1, one, 1, nobody) for text, one in zip(as_long, prefill, strict=True))
        )
    gaps = [stream.gap_s for stream in disturbed]
    return Outcome(
        standby=standby,
        n_streams=n_streams,
        n_broken=sum(stream.is_broken or len(stream.ids) != 1 for stream in disturbed),
        n_moved=sum(bool(stream.engines) for stream in disturbed),
        n_same=_n_same(calm, disturbed),
        n_same_undisturbed=_n_same(calm, again),
        longest_gap_s=round(max(gaps), 3),
        median_gap_s=round(median(gaps), 3),
        standby_prefill_s=round(max(stream.chunk_s[0] for stream in prefill) - begun, 3),
        longest_gap_undisturbed_s=round(max(stream.gap_s for stream in calm), 3),
    )


def _n_same(some: Sequence[Stream], others: Sequence[Stream]) -> int:
    return sum(one.text == other.text for one, other in zip(some, others, strict=True))


async def _ask(
    session: aiohttp.ClientSession,
    url: str,
    text: str,
    max_tokens: int,
    stream: Stream,
    kill_after: int,
    reached: asyncio.Event,
) -> None:
    body = {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    clock = asyncio.get_running_loop().time
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        if response.status != 200:
            stream.error = f"status {response.status}"
            return
        async for line in response.content:
            if not line.startswith(b"data: "):
                continue
            if line.startswith(b"data: [DONE]"):
                stream.is_done = True
                continue
            _take(stream, json.loads(line.removeprefix(b"data: ")), clock())
            if len(stream.chunk_s) == kill_after:
                reached.set()
    reached.set()


def _take(stream: Stream, event: dict[str, Any], now: float) -> None:
    if "error" in event:
        stream.error = event["error"]["message"]
        return
    stream.ids.add(event["id"])
    if "x_engine" in event:
        stream.engines.append(event["x_engine"])
    said = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
    if said:
        stream.text += said
        stream.chunk_s.append(now)
        stream.n_chars.append(len(stream.text))


async def _kill_serving(session: aiohttp.ClientSession, url: str) -> None:
    """SIGKILL to the worker itself, below the process that guards it."""
    async with session.get(f"{url}/status") as response:
        status = await response.json()
    (pid,) = (engine["pid"] for engine in status["engines"] if engine["name"] == status["engine"])
    for process in psutil.Process(pid).children():
        process.kill()


@asynccontextmanager
async def _server(standby: str, n_streams: int) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A gateway with two workers, as many of them ready as are to be."""
    key = secrets.token_urlsafe(16)
    with tempfile.TemporaryDirectory(prefix="failover-") as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        config = Path(folder) / "gguf-server.toml"
        engines = (_ENGINE.format(name=name, cells=max(8192, 512 * n_streams)) for name in ("first", "second"))
        config.write_text(_CONFIG.format(standby=standby, streams=n_streams) + "".join(engines))
        env = {**os.environ, "GGUF_SERVER_API_KEYS": key, "XDG_STATE_HOME": folder}
        argv = (sys.executable, "-m", "gguf_server", "serve", "--config", str(config), "--port", str(port))
        log = (Path(folder) / "log").open("wb")
        process = await asyncio.create_subprocess_exec(*argv, env=env, stdout=log, stderr=log)
        log.close()
        try:
            timeout = aiohttp.ClientTimeout(total=_READY_S)
            headers = {"Authorization": f"Bearer {key}"}
            async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
                url = f"http://127.0.0.1:{port}"
                async with asyncio.timeout(_READY_S):
                    await _until_ready(session, url, n_ready=2 if standby == "warm" else 1)
                yield session, url
        finally:
            process.terminate()
            await process.wait()


async def _until_ready(session: aiohttp.ClientSession, url: str, *, n_ready: int) -> None:
    while True:
        try:
            async with session.get(f"{url}/status") as response:
                engines = (await response.json())["engines"]
                if sum(engine["state"] == "ready" for engine in engines) >= n_ready:
                    return
        except aiohttp.ClientConnectorError:
            pass
        await asyncio.sleep(0.1)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.failover", description=__doc__)
    parser.add_argument("--standby", nargs="+", choices=("warm", "cold"), default=["warm", "cold"])
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--kill-after", type=int, default=30, help="chunks of the first stream that has so many")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
