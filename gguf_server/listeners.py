"""The sockets that clients reach: the shared one, and one for each service that has a port of its own.

They follow the gateway's services: `open` what is new, then `update` once the gateway has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from aiohttp import web

from gguf_server.app import make_app, remount
from gguf_server.gateway import Gateway
from gguf_server.listening.site import Entrance
from gguf_server.service import Service

_CLOSE_S: Final = 3.0
_LOOK_S: Final = 0.1

log = structlog.get_logger("server")


@dataclass(frozen=True, slots=True)
class Listener:
    app: web.Application
    runner: web.AppRunner
    site: web.TCPSite

    @property
    def port(self) -> int:
        """The one it has, which the system chose where 0 was asked for."""
        return int(self.runner.addresses[0][1])


class Listeners:
    """One for each port of `gateway`'s settings. For one owner, but that `port` may be asked by anybody.

    Raises `TlsError`.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._entrance = Entrance(gateway.settings)
        self._open: dict[int, Listener] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def scheme(self) -> str:
        return self._entrance.scheme

    def port(self, wanted: int) -> int:
        """The real port of the listener that the settings call `wanted`."""
        return self._open[wanted].port

    async def open(self, ports: Iterable[int]) -> list[int]:
        """Listen there, with nothing to be found yet; returns those that are new. Raises `OSError`: then none is."""
        new: list[int] = []
        try:
            for port in ports:
                if port not in self._open:
                    self._open[port] = await self._listen(port)
                    new.append(port)
        except OSError:
            for port in new:
                await self._open.pop(port).runner.cleanup()
            raise
        return new

    def update(self) -> None:
        """Show every listener the services that are the gateway's now, and close those that nobody wants any more."""
        wanted = mounts_by_port(self._gateway)
        self._entrance.connections.limits = self._gateway.settings.connections
        for port, listener in list(self._open.items()):
            if port in wanted:
                is_shared = port == self._gateway.settings.server.port
                remount(listener.app, self._gateway, wanted[port], self._gateway.shared_routes if is_shared else ())
            else:
                closing = asyncio.create_task(_close_when_done(self._open.pop(port)), name=f"close port {port}")
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
                log.info("no longer listening", port=port)

    async def close(self) -> None:
        """At once, but for the few seconds in which a last word can be said."""
        closing = list(self._closing)
        for task in closing:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)
        for listener in self._open.values():
            await listener.runner.cleanup()
        self._entrance.close()

    async def _listen(self, port: int) -> Listener:
        app = make_app(self._gateway, {})
        # Without handler_cancellation a client that leaves while it waits would be noticed only at its turn.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=_CLOSE_S)
        try:
            await runner.setup()
            site = self._entrance.site(runner, self._gateway.settings.server.host, port)
            await site.start()
        except BaseException:
            await runner.cleanup()
            raise
        return Listener(app, runner, site)


def mounts_by_port(gateway: Gateway) -> dict[int, Mapping[str, Service]]:
    """Who is to be found where: on the shared port under paths, on a port of its own at the root."""
    own = {service.settings.port: {"": service} for service in gateway.services.values() if service.settings.port}
    return {gateway.settings.server.port: gateway.shared_mounts, **own}


@asynccontextmanager
async def listening(gateway: Gateway) -> AsyncIterator[Listeners]:
    """Held while the gateway is to be reached. Raises `OSError` for an address that cannot be had, and `TlsError`."""
    listeners = Listeners(gateway)
    try:
        mounts = mounts_by_port(gateway)
        await listeners.open(mounts)
        listeners.update()
        for port, paths in mounts.items():
            url = f"{listeners.scheme}://{gateway.settings.server.host}:{listeners.port(port)}"
            log.info("listening", url=url, paths=list(paths))
        yield listeners
    finally:
        await listeners.close()


async def _close_when_done(listener: Listener) -> None:
    """Take no new connection, and let each that is there end with the request it carries."""
    try:
        await listener.site.stop()
        server = listener.runner.server
        while server is not None and server.connections:
            server.pre_shutdown()  # idle ones at once, and those which became idle meanwhile
            await asyncio.sleep(_LOOK_S)
    finally:
        await listener.runner.cleanup()
