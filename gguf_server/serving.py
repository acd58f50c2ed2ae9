"""An engine that answers now, who uses it, and how one notices that it does not do its work any more.

Any byte from an engine is a sign of life. Where there was none for too long, or a request failed, it is asked for one
token. An engine whose places are all taken by long prompts may owe that token for minutes: what counts then is
whether it still computes steps. An engine that hangs answers neither, however healthy its `/health` looks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from backends.base import Engine, EngineFailure, FailureReason
from gguf_server.engine_client import EngineClient, EngineError, Fault
from gguf_server.settings import FailoverSettings
from gguf_server.stream_speed import Sample, StreamTimer

_PROBE_ID: Final = "probe"


class Hang(EngineFailure):
    """It runs and does nothing: it will not end by itself, and there is no more to learn from it."""


class Use:
    """One request's hold of an engine. What is called for every piece of a stream does next to nothing.

    `is_waiting`: for the engine, and not for a client that reads slowly.
    """

    __slots__ = ("_serving", "_timeout", "cut_for", "fault", "has_begun", "heard_at", "is_waiting", "timer")

    def __init__(self, serving: Serving, timeout: asyncio.Timeout) -> None:
        self._serving = serving
        self._timeout = timeout
        self.has_begun = False
        self.is_waiting = True
        self.heard_at = serving.now()
        self.cut_for = ""
        self.fault = Fault.STALLED
        self.timer = StreamTimer()

    def heard(self) -> None:
        """A piece has come."""
        self.has_begun = True
        self.is_waiting = False
        self._serving.heard_at = now = self._serving.now()
        self.timer.heard(now)

    def waits(self) -> None:
        """It was passed on, and the next is waited for."""
        self.is_waiting = True
        self.heard_at = self._serving.now()
        self.timer.waits(self.heard_at)

    def cut(self, why: str, fault: Fault = Fault.STALLED) -> None:
        """End it with an `EngineError`."""
        if not self._timeout.expired():
            self.cut_for, self.fault = why, fault
            self._timeout.reschedule(self._serving.now())


class Serving:
    """A started engine with its client, from its readiness to its end.

    `is_suspect`: a request failed there and no token has come since; whoever waits for the verdict is told through
    `on_change`, which is also called whenever it becomes idle. A request that the engine seems to have forgotten is
    taken from it only where `has_alternative`. `on_sample` is told how fast a stream was that came alone.
    """

    def __init__(
        self,
        engine: Engine,
        client: EngineClient,
        on_change: Callable[[], None] = lambda: None,
        has_alternative: Callable[[], bool] = lambda: False,
        on_sample: Callable[[Sample], None] = lambda _: None,
    ) -> None:
        self.engine = engine
        self.client = client
        self.now = asyncio.get_running_loop().time
        self.heard_at = self.up_since = self.now()
        self.idle_since: float | None = self.up_since
        self.n_failures = 0
        self.is_suspect = False
        self.rules = FailoverSettings()
        self.uses: set[Use] = set()
        self._suspected = asyncio.Event()
        self._on_change = on_change
        self._has_alternative = has_alternative
        self._on_sample = on_sample

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Use]:
        """Held while a request is with this engine. Raises `EngineError` where it was cut."""
        timeout = asyncio.timeout(None)
        use = Use(self, timeout)
        self.uses.add(use)
        if len(self.uses) > 1:
            for other in self.uses:
                other.timer.was_alone = False
        self.idle_since = None
        try:
            async with timeout:
                yield use
        except TimeoutError as error:
            if not timeout.expired():
                raise
            raise EngineError(use.cut_for, use.fault) from error
        finally:
            self._release(use)

    def succeeded(self) -> None:
        self.n_failures = 0
        self.heard_at = self.now()

    def finished(self, use: Use, body: Mapping[str, Any], usage: Mapping[str, Any]) -> None:
        """A stream that was `body`'s came to its end; `usage` is what it cost."""
        self.succeeded()
        if (sample := use.timer.sample(body, usage)) is not None:
            self._on_sample(sample)

    def failed(self) -> None:
        """A request failed here: have it looked at."""
        self.n_failures += 1
        self.is_suspect = True
        self._suspected.set()

    def give_up(self) -> None:
        """Cut whoever is still with it: a connection that hangs does not end by being closed from here."""
        for use in self.uses:
            use.cut("the engine was given up", Fault.GIVEN_UP)

    async def watch(self, rules: FailoverSettings) -> EngineFailure:
        """Return why this engine has to be given up: it ended, or does not do its work. Safe to cancel.

        Other `rules` may be set meanwhile.
        """
        self.rules = rules
        ended = asyncio.create_task(self.engine.wait_failed())
        try:
            checked_at = self.up_since
            while not ended.done():
                rules = self.rules
                limit_s = rules.stall_s if self.uses else rules.probe_every_s
                wait_s = max(self.heard_at, checked_at) + limit_s - self.now()
                if wait_s > 0 and not self._suspected.is_set():
                    await self._pause(ended, min(wait_s, rules.stall_s))
                    self._cut_forgotten(rules.stall_s)
                    continue
                self._suspected.clear()
                if failure := await self._examine(ended, rules):
                    return failure
                checked_at = self.now()
            return ended.result()
        finally:
            ended.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ended

    def _release(self, use: Use) -> None:
        self.uses.discard(use)
        if not self.uses:
            self.idle_since = self.now()
            self._on_change()

    async def _pause(self, ended: asyncio.Task[EngineFailure], limit_s: float) -> None:
        suspected = asyncio.create_task(self._suspected.wait())
        try:
            await asyncio.wait((ended, suspected), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            suspected.cancel()

    def _cut_forgotten(self, stall_s: float) -> None:
        """Requests that had begun and have been silent for too long while the engine spoke to others."""
        now = self.now()
        if now - self.heard_at < stall_s / 2 and self._has_alternative():
            for use in self.uses:
                if use.has_begun and use.is_waiting and now - use.heard_at > stall_s:
                    use.cut("the engine answers others and not this request", Fault.STALLED)

    async def _examine(self, ended: asyncio.Task[EngineFailure], rules: FailoverSettings) -> EngineFailure | None:
        """A failure to give it up for, or None where it works."""
        if self.n_failures >= rules.max_failures:
            return EngineFailure(FailureReason.UNHEALTHY, f"{self.n_failures} requests in a row failed")
        probe = asyncio.create_task(self._probe(rules.probe_timeout_s))
        await asyncio.wait((ended, probe), return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            probe.cancel()
            await asyncio.gather(probe, return_exceptions=True)
            return ended.result()
        if failure := probe.result():
            return failure
        self.is_suspect = False
        self._on_change()
        return None

    async def _probe(self, timeout_s: float) -> EngineFailure | None:
        """What is wrong with it, if something is."""
        try:
            before = await self.client.steps()
            try:
                async with asyncio.timeout(timeout_s):
                    await self.client.one_token(_PROBE_ID)
            except TimeoutError:
                if await self.client.steps() == before:
                    raise
        except TimeoutError:
            detail = f"it hangs: no token within {timeout_s:g} s, and no step computed meanwhile"
            return Hang(FailureReason.UNHEALTHY, detail)
        except EngineError as error:
            return EngineFailure(FailureReason.UNHEALTHY, str(error))
        return None
