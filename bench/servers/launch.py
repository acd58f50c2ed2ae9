"""Servers that a measurement starts and ends itself."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp

from bench.measuring.load import Target, connect

_START_POLL_S: Final = 0.1
_LOOK_LIMIT_S: Final = 10.0
_END_LIMIT_S: Final = 30.0
_TAIL_BYTES: Final = 4096
_TAIL_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class Server:
    """A command line, and how it is spoken to once it listens.

    `environment` goes over that of this process, without the variables that begin with one of `hides`. It is ready
    once `ready_path` answers 200. `failure_path` is the gateway's `/status`, for a server that has one: it comes up and
    stays, whatever becomes of its engine.
    """

    target: Target
    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    hides: tuple[str, ...] = ()
    ready_path: str = "/health"
    failure_path: str | None = None
    start_limit_s: float = 120.0


class RunningServer:
    """One process in a session of its own, with all that it started in that session; its output goes to `log`.

    `start` and `stop` are for one owner. A `start` that fails or is cancelled has ended the process.
    """

    def __init__(self, server: Server, log: Path) -> None:
        self.server = server
        self._log = log
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        """None while nothing runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Returns when it is ready. Raises `RuntimeError` where it does not come up, with its last words."""
        with self._log.open("wb") as output:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self.server.argv,
                    env=_environment(self.server),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            except OSError as error:
                raise RuntimeError(f"{self.server.target.name} cannot be started: {error}") from error
        try:
            await self._wait_ready(self._process)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """SIGTERM, a grace period, SIGKILL for whatever is left of its session; cancelled, it goes on to that."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            if process.returncode is None:
                _signal_group(process.pid, signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_LIMIT_S):
                    await process.wait()
        finally:
            _signal_group(process.pid, signal.SIGKILL)
        await process.wait()

    async def ending(self, *, within_s: float) -> str | None:
        """How it ended by itself; None where it runs on for so long, or was never started.

        A connection breaks some time before the process is gone.
        """
        if self._process is None:
            return None
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._process.wait()
        if self._process.returncode is None:
            return None
        return f"ended with {self._process.returncode}, see {self._log}{self._last_words()}"

    async def _wait_ready(self, process: Process) -> None:
        name = self.server.target.name
        try:
            async with asyncio.timeout(self.server.start_limit_s), connect(self.server.target) as session:
                while process.returncode is None:
                    if await _is_ready(session, self.server.ready_path):
                        return
                    if self.server.failure_path and (failure := await _failure(session, self.server.failure_path)):
                        raise RuntimeError(f"{name}: {failure}, see {self._log}")
                    await asyncio.sleep(_START_POLL_S)
        except TimeoutError:
            limit_s = self.server.start_limit_s
            raise RuntimeError(
                f"{name} is not ready after {limit_s:g} s, see {self._log}{self._last_words()}"
            ) from None
        ending = f"ended with {process.returncode} before it was ready"
        raise RuntimeError(f"{name} {ending}, see {self._log}{self._last_words()}")

    def _last_words(self) -> str:
        with self._log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f": {said[-1][:_TAIL_CHARS]}" if said else ""


@asynccontextmanager
async def running(servers: Sequence[Server], logs: Path) -> AsyncIterator[None]:
    """All of them ready, each with a log of its name. Raises `RuntimeError` for one that does not come up."""
    async with AsyncExitStack() as stack:
        for server in servers:
            child = RunningServer(server, logs / f"{server.target.name}.log")
            await child.start()
            stack.push_async_callback(child.stop)
        yield


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _environment(server: Server) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(server.hides)}
    return {**kept, **server.environment}


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


async def _is_ready(session: aiohttp.ClientSession, path: str) -> bool:
    try:
        async with asyncio.timeout(_LOOK_LIMIT_S), session.get(path) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _failure(session: aiohttp.ClientSession, path: str) -> str | None:
    """Why no engine of a gateway can be had; None while one may still come up."""
    try:
        async with asyncio.timeout(_LOOK_LIMIT_S), session.get(path) as answer:
            engines = (await answer.json())["engines"] if answer.status == 200 else []
            failures = [engine["last_failure"] for engine in engines]
            if failures and all(failures):
                return "; ".join(f"{failure['reason']}: {str(failure['detail'])[:_TAIL_CHARS]}" for failure in failures)
    except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError):
        return None
    return None
