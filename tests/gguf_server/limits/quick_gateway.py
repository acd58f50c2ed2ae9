"""A gateway over a fake engine that is in the test's own process, so that it is there at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from gguf_server.limits.limiter import Limiter
from tests.backends.fake_engine import make_app, read_arguments
from tests.gguf_server.gateway import Gateway, gateway


@asynccontextmanager
async def engine(*flags: str) -> AsyncIterator[str]:
    """The address of an engine with these flags of `tests.backends.fake_engine`."""
    runner = web.AppRunner(make_app(read_arguments(flags)), handler_cancellation=True, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def quick_gateway(url: str, limiter: Limiter, **settings: Any) -> AsyncIterator[Gateway]:
    """Ready to answer."""
    engines = [{"kind": "openai", "name": "a", "url": url, "dialect": "vllm"}]
    async with gateway(limiter=limiter, engines=engines, **settings) as made:
        await made.until_up("a")
        yield made
