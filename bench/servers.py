"""Servers that a measurement starts and ends itself."""

from __future__ import annotations

import asyncio
import subprocess
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from bench.load import Target, connect

_START_LIMIT_S: Final = 120.0
_START_POLL_S: Final = 0.1
_END_LIMIT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Server:
    """A command line, and how it is spoken to once it listens."""

    target: Target
    argv: Sequence[str]


@asynccontextmanager
async def running(servers: Sequence[Server], logs: Path) -> AsyncIterator[None]:
    """All of them ready, each with a log of its name. Raises `RuntimeError` for one that does not come up."""
    async with AsyncExitStack() as stack:
        for server in servers:
            await stack.enter_async_context(_running(server, logs / f"{server.target.name}.log"))
        yield


@asynccontextmanager
async def _running(server: Server, log: Path) -> AsyncIterator[None]:
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *server.argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            await _wait_ready(server, process, log)
            yield
        finally:
            await _end(process)


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(_END_LIMIT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _wait_ready(server: Server, process: Process, log: Path) -> None:
    name = server.target.name
    try:
        async with asyncio.timeout(_START_LIMIT_S), connect(server.target) as session:
            while process.returncode is None:
                if await _is_ready(session):
                    return
                await asyncio.sleep(_START_POLL_S)
    except TimeoutError:
        raise RuntimeError(f"{name} is not ready after {_START_LIMIT_S:g} s, see {log}") from None
    raise RuntimeError(f"{name} ended with {process.returncode} before it was ready, see {log}")


async def _is_ready(session: aiohttp.ClientSession) -> bool:
    try:
        async with session.get("/health") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False
