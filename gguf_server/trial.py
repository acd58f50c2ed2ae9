"""A few words asked of an engine that was just loaded, so that its speed is known before somebody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from gguf_server import events
from gguf_server.engine_client import EngineError
from gguf_server.errors import GatewayError
from gguf_server.forecast import Forecast
from gguf_server.serving import Serving

_PATH: Final = "/v1/completions"
_ID: Final = "trial"
_N_STREAMS: Final = 3
_LIMIT_S: Final = 60.0
_BODY: Final[dict[str, Any]] = {
    "prompt": "One, two, three,",
    "max_tokens": 40,
    "ignore_eos": True,
    "temperature": 0,
    "stream": True,
    "stream_options": {"include_usage": True},
}


@asynccontextmanager
async def trying_out(serving: Serving, forecast: Forecast) -> AsyncIterator[None]:
    """Held for as long as the engine serves; the trial is at its beginning and keeps nobody waiting."""
    trial = asyncio.create_task(_try_out(serving, forecast))
    try:
        yield
    finally:
        trial.cancel()
        await asyncio.wait((trial,))


async def _try_out(serving: Serving, forecast: Forecast) -> None:
    """Ask as long as nobody else does, where there is a plan to compare with.

    A failure is no business of this: whoever needs the engine will meet it.
    """
    await forecast.complete()
    for _ in range(_N_STREAMS):
        if serving.uses or forecast.plan.speed is None:
            return
        try:
            async with asyncio.timeout(_LIMIT_S):
                await _ask(serving)
        except (EngineError, GatewayError, TimeoutError):
            return


async def _ask(serving: Serving) -> None:
    said = b""
    async with serving.use() as use, serving.client.stream(_PATH, _BODY, _ID, use) as chunks:
        async for chunk in chunks:
            said += chunk
    usage = next((events.usage_of(event) for event in events.split(said) if events.has_no_choices(event)), {})
    serving.finished(use, _BODY, usage)
