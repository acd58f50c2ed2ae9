"""Lets a request of a key in or says when to come again, and puts right afterwards what it really used.

Whether a key may use a service and how much it may ask for is told from its limits alone; how often and how many tokens
from the counts of a store. A key without such limits costs nothing: its store is never asked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

from gguf_server.errors import PermissionDenied, RequestsExceeded, TokensExceeded
from gguf_server.keys import KeyIdentity
from gguf_server.limits.daily import DayCount
from gguf_server.limits.headers import duration
from gguf_server.limits.memory_store import MemoryStore
from gguf_server.limits.meters import Ask, Change, Kind, Reading, Store, Taken, meters_of
from gguf_server.limits.policy import NO_LIMITS, KeyLimits
from gguf_server.limits.windows import DAY

_LONGEST_SLEEP_S: Final = 60
"""Who is to wait longer is told not to try again by itself: an SDK would sleep for hours."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A request that was let in, and where it was counted."""

    key_id: str
    asks: tuple[Ask, ...]
    slots: tuple[int, ...]
    readings: tuple[Reading, ...]
    counted_by: Store


class Limiter:
    """`defaults` speak for keys that say nothing, and may be replaced at any time. `local`: counts of this process."""

    def __init__(
        self,
        defaults: KeyLimits = NO_LIMITS,
        *,
        local: MemoryStore | None = None,
        shared: Store | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.defaults = defaults
        self.n_refused = dict.fromkeys(Kind, 0)
        self._now_s = now_s
        self._local = local or MemoryStore(now_s)
        self._store: Store = shared or self._local

    def limits_of(self, identity: KeyIdentity) -> KeyLimits:
        return self.defaults if identity.limits is None else identity.limits.over(self.defaults)

    def check_service(self, limits: KeyLimits, service: str) -> None:
        """Raises `PermissionDenied`."""
        if not limits.allows(service):
            raise PermissionDenied(f"this API key may not use the service {service!r}", code="service_not_allowed")

    async def admit(self, key_id: str, limits: KeyLimits, n_tokens: int) -> Lease | None:
        """Count a request that will use about `n_tokens`; None where this key is not counted.

        Raises `RequestsExceeded` and `TokensExceeded`; the request is not counted then.
        """
        if not limits.has_rates:
            return None
        asks = tuple(Ask(meter, 1 if meter.kind is Kind.REQUESTS else n_tokens) for meter in meters_of(limits))
        taken = await self._store.take(key_id, asks)
        if taken.is_refused:
            self._refuse(asks, taken)
        return Lease(key_id, asks, taken.slots, taken.readings, taken.by)

    async def settle(self, lease: Lease, n_tokens: int) -> tuple[Reading, ...]:
        """What it used in the end."""
        used = {Kind.REQUESTS: 1, Kind.TOKENS: n_tokens}
        return await self._change(lease, used)

    async def forget(self, lease: Lease) -> tuple[Reading, ...]:
        """It was never tried, for a reason that is the server's."""
        return await self._change(lease, dict.fromkeys(Kind, 0))

    async def read(self, key_id: str, limits: KeyLimits) -> tuple[Reading, ...]:
        return await self._store.read(key_id, meters_of(limits)) if limits.has_rates else ()

    def seed(self, day: date, counted: Mapping[str, DayCount]) -> None:
        """Go on counting a day where an earlier process stopped; what is of another day than today is left out.

        A shared store remembers by itself: this is for the counts of this process.
        """
        if day != datetime.fromtimestamp(self._now_s(), UTC).date():
            return
        for key_id, count in counted.items():
            self._local.begin(key_id, Kind.REQUESTS, DAY, count.n_requests)
            self._local.begin(key_id, Kind.TOKENS, DAY, count.n_tokens)

    def status(self) -> dict[str, Any]:
        """For `/status`."""
        refused = {str(kind): n for kind, n in self.n_refused.items()}
        if self._store is self._local:
            return {"store": "memory", "refused": refused}
        return {"store": "redis", "store_reachable": self.is_store_reachable, "refused": refused}

    @property
    def is_store_reachable(self) -> bool:
        """Whether what is counted is counted where it should be."""
        return self._store.is_reachable

    async def _change(self, lease: Lease, used: Mapping[Kind, int]) -> tuple[Reading, ...]:
        changes = [
            Change(ask.meter, slot, used[ask.meter.kind] - ask.n_held)
            for ask, slot in zip(lease.asks, lease.slots, strict=True)
        ]
        return await lease.counted_by.settle(lease.key_id, changes)

    def _refuse(self, asks: tuple[Ask, ...], taken: Taken) -> None:
        """Told of the meter that takes longest."""
        number = max(range(len(asks)), key=lambda i: taken.waits_s[i])
        ask, reading, wait_s = asks[number], taken.readings[number], math.ceil(taken.waits_s[number])
        kind = ask.meter.kind
        self.n_refused[kind] += 1
        error, hint = RequestsExceeded, ""
        if kind is Kind.TOKENS:
            error, hint = TokensExceeded, ", or sooner with a smaller max_tokens"
        raise error(
            f"the limit of {ask.meter.limit} {ask.meter} of this API key is reached: {reading.used} are used, this "
            f"request may need {ask.n_held}; try again in {duration(wait_s)}{hint}",
            retry_after_s=wait_s,
            headers={"x-should-retry": "false"} if wait_s > _LONGEST_SLEEP_S else None,
        )
