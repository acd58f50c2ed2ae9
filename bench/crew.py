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

from bench import processes
from bench.recipes import Recipe
from bench.servers import RunningServer

_MOST_FAILURES: Final = 2
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
        self._running: dict[str, RunningServer] = {}
        self._mourned: set[RunningServer] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with AsyncExitStack() as all_of_them:
            for server in self._running.values():
                all_of_them.push_async_callback(server.stop)

    async def bring_up(self, name: str) -> bool:
        """Whether it had to be started; it is ready now. Blocks until it is. Raises `RuntimeError` with the reason."""
        if (problem := self._failures.why_given_up(name)) is not None:
            raise RuntimeError(problem)
        wanted = self._recipes[name].server
        if wanted is None or self.pid(name) is not None:
            return False
        if name in self._running:
            await self._running[name].stop()
        server = self._running[name] = RunningServer(wanted, self._logs / f"{name}.log")
        try:
            await server.start()
        except RuntimeError as error:
            self._failures.add(name, str(error))
            raise
        return True

    def death(self, name: str) -> str | None:
        """How its server ended by itself after it was ready; told once."""
        server = self._running.get(name)
        ending = server.ending() if server is not None else None
        if server is None or ending is None or server in self._mourned:
            return None
        self._mourned.add(server)
        self._failures.add(name, f"{name} {ending}")
        return f"{name} {ending}"

    def pid(self, name: str) -> int | None:
        server = self._running.get(name)
        return server.pid if server is not None else None

    async def process_of(self, name: str) -> int | None:
        """The process whose memory is the server's; None where it is on another machine, or another user's."""
        recipe = self._recipes[name]
        if recipe.server is not None:
            return self.pid(name)
        url = recipe.target.url
        with suppress(LookupError, ValueError, psutil.Error):
            if urlsplit(url).hostname in _LOOPBACK:
                return (await asyncio.to_thread(processes.listening_at, url)).pid
        return None
