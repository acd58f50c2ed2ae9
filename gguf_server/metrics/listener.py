"""`/metrics`, on the listeners that clients use and on a port of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Final

import structlog
from aiohttp import web

from gguf_server.gateway import Gateway
from gguf_server.listening.site import Entrance
from gguf_server.loopback import is_loopback
from gguf_server.middleware import Handler, add_request_id, identify_and_log, render_errors
from gguf_server.request_record import OBSERVERS
from gguf_server.service import Service

_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_CLOSE_S: Final = 1.0
_MAX_BODY_BYTES: Final = 1024

log = structlog.get_logger("server")


def metrics_handler(
    gateway: Gateway, services: Callable[[], Collection[Service]], *, with_others: bool = False
) -> Handler:
    """`services`: whose metrics are told. Asks for the metrics key where there is one, for nothing else."""

    async def metrics(request: web.Request) -> web.StreamResponse:
        if gateway.metrics_key is not None:
            gateway.metrics_key.check(request.headers)
        text = await gateway.exposition.text(services(), with_others=with_others)
        return web.Response(body=text, headers={"Content-Type": _CONTENT_TYPE})

    return metrics


@asynccontextmanager
async def metrics_listening(gateway: Gateway) -> AsyncIterator[int | None]:
    """Held while the metrics' own port is open; gives its number, None where there is none.

    Who comes from another machine comes in as clients do: over TLS where that is configured, counted and watched.
    Raises `OSError` and `TlsError`.
    """
    settings = gateway.settings.metrics
    if settings.port is None:
        yield None
        return
    runner = web.AppRunner(metrics_app(gateway), access_log=None, handler_cancellation=True, shutdown_timeout=_CLOSE_S)
    entrance = None if is_loopback(settings.host) else Entrance(gateway.settings)
    site = web.TCPSite if entrance is None else entrance.site
    try:
        await runner.setup()
        await site(runner, settings.host, settings.port).start()
        port = int(runner.addresses[0][1])
        log.info("listening", url=f"{entrance.scheme if entrance else 'http'}://{settings.host}:{port}/metrics")
        yield port
    finally:
        await runner.cleanup()
        if entrance is not None:
            entrance.close()


def metrics_app(gateway: Gateway) -> web.Application:
    """Nothing but `/metrics`, of all services."""
    app = web.Application(middlewares=[identify_and_log, render_errors], client_max_size=_MAX_BODY_BYTES)
    app[OBSERVERS] = gateway.observers
    app.on_response_prepare.append(add_request_id)
    app.add_routes([web.get("/metrics", metrics_handler(gateway, lambda: gateway.services.values(), with_others=True))])
    return app
