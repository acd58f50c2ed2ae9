"""The servers of a block: started when they are first wanted, and again when one has died, but not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import psutil

from bench.servers import processes
from bench.servers.launch import RunningServer
from bench.servers.recipes import Recipe

_MOST_FAILURES: Final = 2
_DEATH_S: Final = 1.0
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


class Failures:
    """How often each target's server would not come up or died, over all blocks of a part, and its last problem."""

    def __init__(self) -> None:
        self._n: dict[str, int] = {}
        self._last: dict[str, str] = {}

    def add(self, name: str, problem: str) -> None:
        self._n[name] = self._n.get(name, 0) + 1
        self._last[name] = problem

    def give_up(self, name: str, problem: str) -> None:
        self._n[name], self._last[name] = _MOST_FAILURES, problem

    def why_given_up(self, name: str) -> str | None:
        return self._last[name] if self._n.get(name, 0) >= _MOST_FAILURES else None


class Crew:
    """Ends all of them when its block is left. For one task."""

    def __init__(self, recipes: Mapping[str, Recipe], failures: Failures, logs: Path) -> None:
        self._recipes = recipes
        self._failures = failures
        self._logs = logs
        self._running: dict[str, list[RunningServer]] = {}
        self._mourned: set[RunningServer] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with AsyncExitStack() as all_of_them:
            for name in self._running:
                all_of_them.push_async_callback(self._stop, name)

    async def bring_up(self, name: str) -> bool:
        """Whether it had to be started; it is ready now. Blocks until it is. Raises `RuntimeError` with the reason."""
        if (problem := self._failures.why_given_up(name)) is not None:
            raise RuntimeError(problem)
        wanted = self._recipes[name].server
        if wanted is None or not self.has_to_start(name):
            return False
        await self._stop(name)
        servers = self._running[name] = []
        try:
            for server in (*self._recipes[name].behind, wanted):
                servers.append(RunningServer(server, self._logs / f"{server.target.name}.log"))
                await servers[-1].start()
        except RuntimeError as error:
            self._failures.add(name, str(error))
            raise
        return True

    def has_to_start(self, name: str) -> bool:
        """Whether its server, or one that it stands in front of, does not run but can be tried."""
        if self._failures.why_given_up(name) is not None or self._recipes[name].server is None:
            return False
        servers = self._running.get(name, [])
        return not servers or any(server.pid is None for server in servers)

    async def death(self, name: str) -> str | None:
        """How a server of the target ended by itself after it was ready; told once. To be asked where a run failed."""
        for server in self._running.get(name, []):
            if server not in self._mourned and (ending := await server.ending(within_s=_DEATH_S)) is not None:
                self._mourned.add(server)
                problem = f"{server.server.target.name} {ending}"
                self._failures.add(name, problem)
                return problem
        return None

    async def process_of(self, name: str) -> int | None:
        """The process whose memory is the server's; None where it is on another machine, or another user's."""
        recipe = self._recipes[name]
        if recipe.server is not None:
            return self._running[name][-1].pid
        url = recipe.target.url
        with suppress(LookupError, ValueError, psutil.Error):
            if urlsplit(url).hostname in _LOOPBACK:
                return (await asyncio.to_thread(processes.listening_at, url)).pid
        return None

    async def rss_bytes(self, name: str) -> int | None:
        """Of the target's server and its children now; None where nobody can tell."""
        pid = await self.process_of(name)
        return None if pid is None else await asyncio.to_thread(_rss_bytes, pid)

    async def _stop(self, name: str) -> None:
        """The last started first."""
        async with AsyncExitStack() as all_of_them:
            for server in self._running.get(name, []):
                all_of_them.push_async_callback(server.stop)


def _rss_bytes(pid: int) -> int | None:
    with suppress(psutil.Error):
        return sum(process.memory_info().rss for process in processes.family(psutil.Process(pid)))
    return None
