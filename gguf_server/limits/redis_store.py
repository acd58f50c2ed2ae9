"""Counts that several gateways share, in a Redis or Valkey.

While it cannot be reached, or takes longer than a short time, this process counts by itself: every gateway then lets in
as much as the limits say. It is tried again after a pause, by one request at a time. What it counts is counted here as
well, so that what was used before it went away is not forgotten; what is used while it is away it never learns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from typing import Any, Protocol

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from gguf_server.limits.breaker import Breaker
from gguf_server.limits.memory_store import MemoryStore
from gguf_server.limits.meters import Ask, Change, Meter, Reading, Taken

_N_CONNECTIONS = 32

log = structlog.get_logger("limits")

_Answer = list[tuple[int, float, int, float]]


class RunScript(Protocol):
    """The script of `windows.lua`; `redis-py` loads it where the server does not have it."""

    def __call__(self, keys: Sequence[str], args: Sequence[str | int]) -> Awaitable[Any]: ...


class RedisStore:
    """`url` without a password. `local` counts along, and alone where the server is gone."""

    def __init__(
        self,
        url: str,
        local: MemoryStore,
        *,
        password: str | None = None,
        prefix: str = "gguf-server",
        timeout_s: float = 0.25,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            password=password,
            max_connections=_N_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            # A connection that broke while idle is made anew at once; anything else is the breaker's business.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
            decode_responses=True,
        )
        self._redis = Redis(connection_pool=pool)
        script = resources.files("gguf_server.limits").joinpath("windows.lua").read_text(encoding="utf-8")
        self._run: RunScript = self._redis.register_script(script)
        self._local = local
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._monotonic_s = monotonic_s
        self._breaker = Breaker()

    @property
    def is_reachable(self) -> bool:
        """As far as the last request could tell."""
        return self._breaker.is_closed

    async def close(self) -> None:
        await self._redis.aclose(close_connection_pool=True)

    async def take(self, key_id: str, asks: Sequence[Ask]) -> Taken:
        meters = [ask.meter for ask in asks]
        answer = await self._ask("take", key_id, meters, [(ask.n_held, 0) for ask in asks])
        if answer is None:
            return await self._local.take(key_id, asks)
        waits = tuple(wait_s for _, wait_s, _, _ in answer)
        if any(waits):
            return Taken((), waits, _readings(meters, answer), self)
        slots = tuple(slot for slot, _, _, _ in answer)
        self._local.count_in(key_id, asks, slots)
        return Taken(slots, waits, _readings(meters, answer), self)

    async def settle(self, key_id: str, changes: Sequence[Change]) -> tuple[Reading, ...]:
        meters = [change.meter for change in changes]
        here = await self._local.settle(key_id, changes)
        answer = await self._ask("settle", key_id, meters, [(change.n, change.slot) for change in changes])
        return here if answer is None else _readings(meters, answer)

    async def read(self, key_id: str, meters: Sequence[Meter]) -> tuple[Reading, ...]:
        answer = await self._ask("settle", key_id, meters, [(0, 0)] * len(meters))
        return await self._local.read(key_id, meters) if answer is None else _readings(meters, answer)

    async def _ask(
        self, what: str, key_id: str, meters: Sequence[Meter], amounts: Sequence[tuple[int, int]]
    ) -> _Answer | None:
        """None where the server is gone. `amounts`: n and slot for each meter."""
        if not self._breaker.may_try(self._monotonic_s()):
            return None
        # The braces keep the counts of a key on one node of a cluster.
        keys = [f"{self._prefix}:{{{key_id}}}:{meter.kind}:{meter.window.name}" for meter in meters]
        args: list[str | int] = [what]
        for meter, (n, slot) in zip(meters, amounts, strict=True):
            args += [meter.window.slot_s, meter.window.width_s, meter.limit, n, slot]
        try:
            async with asyncio.timeout(self._timeout_s):
                told = await self._run(keys, args)
        except (RedisError, OSError, TimeoutError) as error:
            if self._breaker.failed(self._monotonic_s()):  # the message might hold the address with its user
                log.warning("shared limits cannot be reached: each gateway counts by itself", why=type(error).__name__)
            return None
        if self._breaker.succeeded():
            log.info("shared limits can be reached again")
        return [
            (int(told[i]), float(told[i + 1]), int(told[i + 2]), float(told[i + 3])) for i in range(0, len(told), 4)
        ]


def _readings(meters: Sequence[Meter], answer: _Answer) -> tuple[Reading, ...]:
    return tuple(Reading(meter, used, reset_s) for meter, (_, _, used, reset_s) in zip(meters, answer, strict=True))
