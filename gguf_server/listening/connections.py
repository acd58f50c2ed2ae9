"""All open connections of all listeners: how many there may be, and a look at each every second.

One timer looks at all of them, so that a deadline costs a connection nothing until it has passed.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from typing import Final, Protocol

import structlog

from gguf_server.errors import GatewayError, ServerFull, TooManyConnections
from gguf_server.listening.clients import counted_as, is_exempt
from gguf_server.settings.listening import ConnectionSettings

_LOOK_EVERY_S: Final = 1.0
_MOST_TURNED_AWAY: Final = 64
_FILES_BESIDE: Final = 200

log = structlog.get_logger("server")


class Watched(Protocol):
    def check(self, now: float) -> None:
        """End what has taken too long by `now`, the loop's time in seconds."""

    def abort(self) -> None: ...


class Connections:
    """`limits` may be replaced at any time; those that are open stay."""

    def __init__(self, limits: ConnectionSettings) -> None:
        self.limits = limits
        self._open: dict[Watched, str] = {}
        self._per_client: Counter[str] = Counter()
        self._turned_away: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._pause_s = _LOOK_EVERY_S

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: Watched, peer: str) -> GatewayError | None:
        """Count one in, or say why not: it is then waited for until it can be told, or aborted where many are."""
        refusal, client = self._refusal(peer), counted_as(peer)
        if refusal is None:
            self._open[connection] = client
            self._per_client[client] += 1
        elif len(self._turned_away) < _MOST_TURNED_AWAY:
            self._turned_away.add(connection)
        else:
            connection.abort()
        if self._timer is None:
            self._set_timer()
        return refusal

    def leave(self, connection: Watched) -> None:
        self._turned_away.discard(connection)
        client = self._open.pop(connection, None)
        if client is not None:
            self._per_client[client] -= 1
            if not self._per_client[client]:
                del self._per_client[client]

    def close(self) -> None:
        """Abort whatever is still there."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in (*self._open, *self._turned_away):
            connection.abort()

    def _refusal(self, peer: str) -> GatewayError | None:
        limits = self.limits
        if len(self._open) >= limits.max_connections:
            return ServerFull("the server has as many connections as it may have")
        n_most = limits.max_per_client
        if n_most and self._per_client[counted_as(peer)] >= n_most and not is_exempt(peer, limits.trusted_proxies):
            return TooManyConnections(
                f"more than {n_most} connections from one address: see max_per_client and trusted_proxies "
                "under [connections]"
            )
        return None

    def _set_timer(self) -> None:
        limits = self.limits
        shortest_s = min(limits.header_timeout_s, limits.body_timeout_s, limits.write_timeout_s)
        self._pause_s = min(_LOOK_EVERY_S, shortest_s / 4)
        due = asyncio.get_running_loop().time() + self._pause_s
        self._timer = asyncio.get_running_loop().call_at(due, self._look, due)

    def _look(self, due: float) -> None:
        """One that comes late itself blames nobody: this process stood still, and has not read yet what came."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        if now - due < self._pause_s:
            for connection in (*self._open, *self._turned_away):
                connection.check(now)
        if self._open or self._turned_away:
            self._set_timer()


def raise_file_limit(limits: ConnectionSettings) -> None:
    """As many open files as the system allows this process, and a word where that is too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * limits.max_connections + _FILES_BESIDE  # each may need one to an engine
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < wanted:
        log.warning("few open files allowed", allowed=soft, wanted=wanted, setting="connections.max_connections")
