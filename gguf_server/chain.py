"""A service's engines in order: which one serves, and why not the others.

One task owns the chain: it starts engines, watches the one that serves, and goes on to the next when it fails.
Everybody else only asks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import structlog

from backends.base import Engine, EngineFailure, EngineState
from gguf_server.engine_client import EngineClient
from gguf_server.errors import NotReady

_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0
_STABLE_AFTER_S: Final = 60.0

log = structlog.get_logger("chain")


@dataclass(slots=True)
class Link:
    """One engine with its history."""

    engine: Engine
    n_starts: int = 0
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    failed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Serving:
    """An engine that answers now. It may be gone by the time it is asked: that is an `EngineError`."""

    engine: Engine
    client: EngineClient


class EngineChain:
    """`run` is the owner; `require` and the properties may be read by anybody."""

    def __init__(self, service: str, engines: Sequence[Engine]) -> None:
        self.links = [Link(engine) for engine in engines]
        self._service = service
        self._serving: Serving | None = None

    @property
    def serving(self) -> Serving | None:
        return self._serving

    @property
    def is_loading(self) -> bool:
        return any(link.engine.state is EngineState.STARTING for link in self.links)

    def require(self) -> Serving:
        """Raises `NotReady` while no engine can answer."""
        if self._serving is None:
            why = "the model is loading" if self.is_loading else "no engine could be started"
            raise NotReady(f"{self._service}: {why}", retry_after_s=2 if self.is_loading else 10)
        return self._serving

    async def run(self) -> None:
        """Keep one engine serving until cancelled, which stops it."""
        first, pause_s = 0, _FIRST_PAUSE_S
        try:
            while True:
                started = await self._start_one(first)
                if started is None:
                    log.error("no engine could be started", service=self._service, next_try_s=pause_s)
                    await asyncio.sleep(pause_s)
                    first, pause_s = 0, min(2 * pause_s, _LONGEST_PAUSE_S)
                    continue
                loop = asyncio.get_running_loop()
                ready_at = loop.time()
                await self._serve(self.links[started])
                if loop.time() - ready_at >= _STABLE_AFTER_S:
                    pause_s = _FIRST_PAUSE_S
                else:
                    await asyncio.sleep(pause_s if len(self.links) == 1 else 0)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                first = (started + 1) % len(self.links)
        finally:
            await self._stop_all()

    async def _start_one(self, first: int) -> int | None:
        """Try every engine once, beginning with number `first`; returns which one became ready."""
        for offset in range(len(self.links)):
            number = (first + offset) % len(self.links)
            link = self.links[number]
            self._tell("engine starting", link)
            link.n_starts += 1
            link.since = datetime.now(UTC)
            started = time.monotonic()
            try:
                await link.engine.start()
            except EngineFailure as failure:
                self._note(link, failure)
                continue
            link.since = datetime.now(UTC)
            self._tell("engine ready", link, load_s=round(time.monotonic() - started, 2))
            return number
        return None

    async def _serve(self, link: Link) -> None:
        """Let an engine serve until it fails."""
        client = EngineClient(link.engine.endpoint)
        self._serving = Serving(link.engine, client)
        try:
            self._note(link, await link.engine.wait_failed())
        finally:
            self._serving = None
            await client.close()
        await link.engine.stop()

    def _note(self, link: Link, failure: EngineFailure) -> None:
        link.since = link.failed_at = datetime.now(UTC)
        told = {"reason": str(failure.reason), "detail": failure.detail, "exit_code": failure.exit_code}
        self._tell("engine failed", link, level=logging.WARNING, **told)

    def _tell(self, event: str, link: Link, *, level: int = logging.INFO, **more: object) -> None:
        log.log(level, event, service=self._service, engine=link.engine.name, device=link.engine.device, **more)

    async def _stop_all(self) -> None:
        for link in self.links:
            with suppress(EngineFailure):
                await link.engine.stop()
