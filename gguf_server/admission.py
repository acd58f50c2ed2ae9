"""Who may compute now, who waits, who is told to come back: coroutines that wait behind a `Turnstile`."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from gguf_server.errors import QueueFull
from gguf_server.turnstile import ANYBODY, Turnstile, Visitor

__all__ = ["Admission", "Place", "Turnstile"]

_MAX_RETRY_AFTER_S: Final = 10


@dataclass(slots=True)
class Place:
    """One request's inside. `n_used`: the tokens that it cost, told by its holder where they come to be known."""

    n_used: int | None = None


@dataclass(slots=True, eq=False)
class _Waiter:
    """`has_place`: it was its turn, whether or not its holder is still there to take it."""

    visitor: Visitor
    turn: asyncio.Future[None]
    has_place: bool = False


class Admission:
    """`permit` is held while a request computes."""

    def __init__(self, max_concurrent: int, max_queue: int) -> None:
        self._turnstile: Turnstile[_Waiter] = Turnstile(max_concurrent, max_queue)
        self._mean_duration_s = 1.0

    @property
    def n_running(self) -> int:
        return self._turnstile.n_running

    @property
    def n_queued(self) -> int:
        return self._turnstile.n_queued

    def resize(self, max_concurrent: int, max_queue: int) -> None:
        """Have other limits from now on; nobody is sent away."""
        self._turnstile.max_running, self._turnstile.max_queued = max_concurrent, max_queue
        while (waiter := self._turnstile.call()) is not None:
            self._call(waiter)

    @asynccontextmanager
    async def permit(self, visitor: Visitor = ANYBODY) -> AsyncIterator[Place]:
        """Wait for a turn. Raises `QueueFull`, at once or when the place in the queue goes to a key that waits less.

        A cancelled waiter leaves the queue at once.
        """
        await self._enter(visitor)
        started = time.monotonic()
        place = Place()
        try:
            yield place
        finally:
            self._mean_duration_s += 0.2 * (time.monotonic() - started - self._mean_duration_s)
            self._call(self._turnstile.leave(visitor, place.n_used))

    async def _enter(self, visitor: Visitor) -> None:
        turnstile = self._turnstile
        if turnstile.can_enter(visitor):
            turnstile.enter(visitor)
            return
        if not turnstile.can_queue(visitor):
            raise self._queue_full()
        waiter = _Waiter(visitor, asyncio.get_running_loop().create_future())
        displaced = turnstile.queue(waiter, visitor)
        if displaced is not None and not displaced.turn.done():
            displaced.turn.set_exception(self._queue_full())
        try:
            await waiter.turn
        except asyncio.CancelledError:
            turnstile.give_up(waiter)
            if waiter.has_place:
                self._call(turnstile.leave(visitor, 0))
            raise

    def _call(self, waiter: _Waiter | None) -> None:
        while waiter is not None and waiter.turn.done():  # its holder was cancelled
            waiter = self._turnstile.leave(waiter.visitor, 0)
        if waiter is not None:
            waiter.has_place = True
            waiter.turn.set_result(None)

    def _queue_full(self) -> QueueFull:
        running, waiting = self._turnstile.n_running, self._turnstile.n_queued
        return QueueFull(
            f"{running} requests are running and {waiting} waiting: try again later",
            retry_after_s=self._retry_after_s(),
        )

    def _retry_after_s(self) -> int:
        """About when a place in the queue will be free, kept small: the SDKs sleep for as long as they are told."""
        expected_s = self._mean_duration_s / self._turnstile.max_running
        return max(1, min(_MAX_RETRY_AFTER_S, math.ceil(expected_s)))
