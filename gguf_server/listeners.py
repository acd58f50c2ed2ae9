"""The sockets that clients reach: the shared one, and one for each service that has a port of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog
from aiohttp import web

from gguf_server.app import make_app
from gguf_server.gateway import Gateway
from gguf_server.listening.site import Entrance

_CLOSE_S: Final = 3.0

log = structlog.get_logger("server")


@asynccontextmanager
async def listening(gateway: Gateway) -> AsyncIterator[None]:
    """Held while the gateway is to be reached. Raises `OSError` for an address that cannot be had, and `TlsError`."""
    server = gateway.settings.server
    listeners = [(server.port, gateway.shared_mounts)]
    own_ports = [service for service in gateway.services.values() if service.settings.port]
    listeners += [(service.settings.port or 0, {"": service}) for service in own_ports]
    entrance = Entrance(gateway.settings)
    runners: list[web.AppRunner] = []
    try:
        for port, mounts in listeners:
            app = make_app(gateway, mounts)
            # Without handler_cancellation a client that leaves while it waits would be noticed only at its turn.
            runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=_CLOSE_S)
            runners.append(runner)
            await runner.setup()
            await entrance.site(runner, server.host, port).start()
            log.info("listening", url=f"{entrance.scheme}://{server.host}:{port}", paths=list(mounts))
        yield
    finally:
        for runner in runners:
            await runner.cleanup()
        entrance.close()
