"""Who may compute now, who waits, who is told to come back.

`Turnstile` is the rule, synchronous and without a clock; `Admission` puts waiting coroutines behind it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Generic, TypeVar

from gguf_server.errors import QueueFull

Ticket = TypeVar("Ticket")

_MAX_RETRY_AFTER_S: Final = 10


class Turnstile(Generic[Ticket]):
    """At most `max_running` inside, at most `max_queued` waiting, first come first served."""

    def __init__(self, max_running: int, max_queued: int) -> None:
        self.max_running = max_running
        self.max_queued = max_queued
        self.n_running = 0
        self._queue: deque[Ticket] = deque()

    @property
    def n_queued(self) -> int:
        return len(self._queue)

    def resize(self, max_running: int, max_queued: int) -> None:
        """Those inside stay, and those in the queue as well, even where they are more than that."""
        self.max_running = max_running
        self.max_queued = max_queued

    def can_call(self) -> bool:
        """Whether somebody in the queue may go in."""
        return bool(self._queue) and self.n_running < self.max_running

    def call(self) -> Ticket:
        """Whose turn it is. Their place inside is taken for them."""
        self.n_running += 1
        return self._queue.popleft()

    def can_enter(self) -> bool:
        return self.n_running < self.max_running and not self._queue

    def enter(self) -> None:
        self.n_running += 1

    def can_queue(self) -> bool:
        return len(self._queue) < self.max_queued

    def queue(self, ticket: Ticket) -> None:
        self._queue.append(ticket)

    def give_up(self, ticket: Ticket) -> bool:
        """Leave the queue. False when the ticket's turn has come already: whoever holds it is inside."""
        if ticket not in self._queue:
            return False
        self._queue.remove(ticket)
        return True

    def leave(self) -> Ticket | None:
        """Go out; returns whose turn it is now. Their place inside is taken for them."""
        self.n_running -= 1
        return self.call() if self.can_call() else None


class Admission:
    """`permit` is held while a request computes."""

    def __init__(self, max_concurrent: int, max_queue: int) -> None:
        self._turnstile: Turnstile[asyncio.Future[None]] = Turnstile(max_concurrent, max_queue)
        self._mean_duration_s = 1.0

    @property
    def n_running(self) -> int:
        return self._turnstile.n_running

    @property
    def n_queued(self) -> int:
        return self._turnstile.n_queued

    def resize(self, max_concurrent: int, max_queue: int) -> None:
        """Have other limits from now on; nobody is sent away."""
        self._turnstile.resize(max_concurrent, max_queue)
        while self._turnstile.can_call():
            self._let_in(self._turnstile.call())

    @asynccontextmanager
    async def permit(self) -> AsyncIterator[None]:
        """Wait for a turn. Raises `QueueFull` at once; a cancelled waiter leaves the queue at once."""
        await self._enter()
        started = time.monotonic()
        try:
            yield
        finally:
            self._mean_duration_s += 0.2 * (time.monotonic() - started - self._mean_duration_s)
            self._leave()

    async def _enter(self) -> None:
        turnstile = self._turnstile
        if turnstile.can_enter():
            turnstile.enter()
            return
        if not turnstile.can_queue():
            raise QueueFull(
                f"{turnstile.n_running} requests are running and {turnstile.n_queued} waiting: try again later",
                retry_after_s=self._retry_after_s(),
            )
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        turnstile.queue(ticket)
        try:
            await ticket
        except asyncio.CancelledError:
            if not turnstile.give_up(ticket) and not ticket.cancelled():
                self._leave()
            raise

    def _leave(self) -> None:
        self._let_in(self._turnstile.leave())

    def _let_in(self, ticket: asyncio.Future[None] | None) -> None:
        while ticket is not None and ticket.done():  # its holder was cancelled: go out for it
            ticket = self._turnstile.leave()
        if ticket is not None:
            ticket.set_result(None)

    def _retry_after_s(self) -> int:
        """About when a place in the queue will be free, kept small: the SDKs sleep for as long as they are told."""
        expected_s = self._mean_duration_s / self._turnstile.max_running
        return max(1, min(_MAX_RETRY_AFTER_S, math.ceil(expected_s)))
