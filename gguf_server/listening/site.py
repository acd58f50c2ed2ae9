"""How connections come in: over TLS or not, and each of them counted and watched."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from gguf_server.listening.connection import Connection
from gguf_server.listening.connections import Connections, raise_file_limit
from gguf_server.listening.tls import Certificate
from gguf_server.settings import Settings

_FAREWELL_S: Final = 5.0


class Entrance:
    """For all listeners of one server. Raises `TlsError`."""

    def __init__(self, settings: Settings) -> None:
        self.certificate = Certificate(settings.tls) if settings.tls.is_on else None
        self.connections = Connections(settings.connections)
        raise_file_limit(settings.connections)

    @property
    def scheme(self) -> str:
        return "https" if self.certificate else "http"

    def site(self, runner: web.AppRunner, host: str, port: int) -> WatchedSite:
        """Not yet started."""
        return WatchedSite(runner, host, port, self)

    def close(self) -> None:
        """When the listeners are closed."""
        self.connections.close()


class WatchedSite(web.TCPSite):
    """A site whose connections are `Connection`s."""

    __slots__ = ("_entrance", "_where")

    def __init__(self, runner: web.AppRunner, host: str, port: int, entrance: Entrance) -> None:
        certificate = entrance.certificate
        super().__init__(runner, host, port, ssl_context=certificate.context if certificate else None)
        self._entrance = entrance
        self._where = (host, port)

    async def start(self) -> None:
        """Raises `OSError` for an address that cannot be had."""
        await web.BaseSite.start(self)
        loop, manager = asyncio.get_running_loop(), self._runner.server
        connections = self._entrance.connections
        if manager is None:
            raise RuntimeError("the runner was not set up")
        is_tls = self._ssl_context is not None
        self._server = await loop.create_server(
            lambda: Connection(manager, connections, loop=loop),
            *self._where,
            ssl=self._ssl_context,
            backlog=self._backlog,
            ssl_handshake_timeout=connections.limits.header_timeout_s if is_tls else None,
            ssl_shutdown_timeout=_FAREWELL_S if is_tls else None,
        )
