"""What a request's way tells a trace, where there is one. Nothing here knows OpenTelemetry, and off costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol

from aiohttp import web

Tell = Callable[[Mapping[str, Any]], None]
"""Takes what an answer cost, as its `usage` says."""


class Trace(Protocol):
    """Of one request."""

    def queueing(self) -> AbstractContextManager[None]:
        """Held while it waits for its turn."""

    def attempt(self, engine: str, kind: str) -> AbstractContextManager[Tell]:
        """Held while that engine, of that family, is asked."""


class Untraced:
    def queueing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def attempt(self, engine: str, kind: str) -> AbstractContextManager[Tell]:
        return nullcontext(_tell_nobody)


UNTRACED: Final[Trace] = Untraced()
TRACE: Final = web.RequestKey[Trace]("trace", Trace)


def trace_of(request: web.Request) -> Trace:
    found: Trace = request.get(TRACE, UNTRACED)
    return found


def _tell_nobody(_usage: Mapping[str, Any]) -> None:
    pass
