"""The chains of engines that run, each with its task, and those that are on their way out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any

from gguf_server.chain import EngineChain


class Lives:
    """Tasks are begun in `owners`, whose end `cancel` allows."""

    def __init__(self, owners: asyncio.TaskGroup) -> None:
        self._owners = owners
        self._running: dict[EngineChain, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving: dict[EngineChain, tuple[str, asyncio.Event]] = {}

    def begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._owners.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def wait_done(self, task: asyncio.Task[None] | None) -> None:
        """Whatever comes of it."""
        if task is not None:
            await asyncio.wait([task])

    def start(self, service: str, chain: EngineChain) -> None:
        """Have its engines started, unless it was ended before it came to that."""
        if chain.is_closed:
            return
        self._running[chain] = self.begin(chain.run(), f"engines of {service}")

    @property
    def leaving(self) -> dict[EngineChain, str]:
        """Chains on their way out, and whose they are."""
        return {chain: service for chain, (service, _) in self._leaving.items()}

    def leave(self, service: str, chain: EngineChain, unused: Callable[[], Awaitable[object]]) -> None:
        """End a chain's engines once `unused` has returned."""
        gone = asyncio.Event()
        self._leaving[chain] = service, gone

        async def retire() -> None:
            await unused()
            await self.end(chain)

        _ = self.begin(retire(), f"end of the engines of {service}")

    async def end(self, chain: EngineChain) -> None:
        """Returns when nothing is left of its engines. A chain that was not started has none."""
        chain.close()
        life = self._running.pop(chain, None)
        if life is not None:
            life.cancel()
            await asyncio.wait([life])
        _, gone = self._leaving.pop(chain, ("", None))
        if gone is not None:
            gone.set()

    async def wait_gone(self, services: Collection[str]) -> None:
        """Return when no engine of these services is on its way out any more."""
        for service, gone in list(self._leaving.values()):
            if service in services:
                await gone.wait()

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
