"""Traces on or off, as configured: OpenTelemetry is imported only where they are on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from gguf_server.settings.observing import TracingSettings

if TYPE_CHECKING:
    from gguf_server.tracing import Tracing


class TracingUnavailable(Exception):
    """Traces are configured, and what makes them is not installed."""


@asynccontextmanager
async def tracing(settings: TracingSettings) -> AsyncIterator[Tracing | None]:
    """Held while requests are traced; None where they are not. Raises `TracingUnavailable`."""
    if settings.endpoint is None:
        yield None
        return
    try:
        from gguf_server.tracing import Tracing, make_provider

        provider = make_provider(settings, settings.endpoint)
    except ImportError as error:
        raise TracingUnavailable(
            f"tracing.endpoint is set, and OpenTelemetry is not installed ({error.name or error}): "
            "pip install 'gguf-server[otel]', or take the setting out"
        ) from error
    made = Tracing(provider)
    try:
        yield made
    finally:
        await made.close()
