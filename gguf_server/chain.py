"""A service's engines in order: which one serves, and why not the others.

`EngineChain.run` owns the chain: it alone starts and ends engines, as `gguf_server.failover` decides. Everybody else
asks: `require` for an engine at once, `acquire` for one that will come.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

import structlog

from backends.base import Engine, EngineFailure
from gguf_server.card_memory import Read
from gguf_server.engine_client import EngineClient
from gguf_server.failover import Decision, Phase
from gguf_server.forecast import Forecast, Policy
from gguf_server.link import Link, memory_of
from gguf_server.moves import FAILBACK, NOT_NEEDED, OPERATOR, Moves
from gguf_server.offer import NoneLeft, Offer
from gguf_server.planning import Held
from gguf_server.preference import Preference, rules_of
from gguf_server.serving import Hang, Serving
from gguf_server.settings import FailoverSettings
from gguf_server.stream_speed import Sample
from gguf_server.trial import trying_out
from gguf_server.wishes import Wishes, number_of, restart, switch

_DYING_S: Final = 6.0  # vLLM answers 500 first and ends 3 to 5 s later

Number = TypeVar("Number", int, int | None)

__all__ = ["EngineChain", "NoneLeft"]

log = structlog.get_logger("chain")


async def _cause(engine: Engine, failure: EngineFailure) -> EngineFailure:
    """What the engine itself dies of, where it is dying: its exit code and its log say more than a lost connection."""
    if isinstance(failure, Hang):
        return failure
    with suppress(TimeoutError):
        async with asyncio.timeout(_DYING_S):
            return await engine.wait_failed()
    return failure


async def _end(engine: Engine) -> None:
    """Returns when nothing of it is left, in a hurry where it is cancelled."""
    try:
        await engine.stop()
    except asyncio.CancelledError:
        await engine.stop()  # which has been killed by now
        raise


class EngineChain:
    """`run` is the owner; everything else may be called by anybody.

    `read_cards` tells what the cards hold (`gguf_server.gpus.read`); None on a machine without. `forecasts`: one for
    each engine, in their order. `model`: what the engines call theirs, where they do not know it themselves.
    `is_awaited`: requests that come before it is up are to wait, and not to be refused.
    """

    def __init__(
        self,
        service: str,
        engines: Sequence[Engine],
        *,
        warm_standby: bool = False,
        settings: FailoverSettings | None = None,
        read_cards: Read | None = None,
        forecasts: Sequence[Forecast] | None = None,
        model: str | None = None,
        is_awaited: bool = False,
    ) -> None:
        plans = forecasts or [Forecast() for _ in engines]
        self.links = [
            Link(engine, memory=memory_of(engine, read_cards), forecast=forecast)
            for engine, forecast in zip(engines, plans, strict=True)
        ]
        self.moves = Moves([link.engine for link in self.links])
        self._service = service
        self._settings = settings or FailoverSettings()
        self._rules = rules_of(self._settings, warm_standby=warm_standby)
        self._preference = Preference(self.links)
        self._offer = Offer(service, self.links, self._preference, is_awaited=is_awaited)
        self._poke = asyncio.Event()
        self._wishes = Wishes(self._poke)
        self.model = model
        self.successor: EngineChain | None = None
        self.is_exhausted = False
        """Every engine has failed, and none is about to be tried again just now."""

    @property
    def serving(self) -> Serving | None:
        return self._offer.serving

    @property
    def pinned(self) -> Link | None:
        """The engine that an operator wants before the others."""
        number = self._preference.pinned
        return None if number is None else self.links[number]

    @property
    def is_closed(self) -> bool:
        return self._offer.is_closed

    @property
    def is_loading(self) -> bool:
        return self._offer.is_loading

    @property
    def may_answer(self) -> bool:
        """Whether those who are with it, or wait for it, have something to wait for."""
        is_up = any(link.serving is not None for link in self.links)
        return is_up or self.is_loading or self._offer.is_swapping

    def require(self) -> Serving | None:
        """See `Offer.require`."""
        return self._offer.require()

    async def acquire(self, tried: Collection[Engine] = ()) -> Serving:
        """See `Offer.acquire`."""
        return await self._offer.acquire(tried)

    async def wait_changed(self) -> None:
        await self._offer.wait_changed()

    async def wait_unused(self) -> None:
        """Return once no request is with any of the engines."""
        await self._offer.wait_unused()

    async def restart(self, engine: str) -> str:
        """See `wishes.restart`."""
        return await self._wishes.ask(lambda: self._granted(restart, number_of(engine, self.links)))

    async def switch(self, engine: str | None) -> str:
        """See `wishes.switch`."""
        number = None if engine is None else number_of(engine, self.links)
        return await self._wishes.ask(lambda: self._granted(switch, number))

    async def adopt(self, settings: FailoverSettings, *, warm_standby: bool, plan: Policy) -> None:
        """Go by other rules from now on."""

        def change() -> None:
            self._settings, self._rules = settings, rules_of(settings, warm_standby=warm_standby)
            for link in self.links:
                link.forecast.policy = plan
                if link.serving is not None:
                    link.serving.rules = settings

        await self._wishes.ask(change)

    def expect_no_more(self) -> None:
        """Requests are not to wait any longer for what has not come."""
        self._offer.is_awaited = False
        self._offer.tell()

    def succeed_by(self, successor: EngineChain) -> None:
        """Whom nothing here can answer any more is to ask there."""
        self.successor = successor
        self._offer.has_successor = True
        self._offer.tell()

    def close(self) -> None:
        """Grant and promise nothing more."""
        self._wishes.close()
        self._offer.close()

    def _granted(self, wish: Callable[[Sequence[Link], Preference, Number], str], number: Number) -> str:
        told = wish(self.links, self._preference, number)
        self._offer.is_swapping |= any(link.is_held for link in self.links)
        self._note_serving(OPERATOR)
        return told

    async def run(self) -> None:
        """Keep one engine serving until cancelled, which ends all."""
        loop = asyncio.get_running_loop()
        self._wishes.begin()
        async with asyncio.TaskGroup() as lives:
            try:
                while True:
                    self._poke.clear()
                    self._wishes.grant()
                    decision = self._decide()
                    if decision.swap_to is not None:
                        if not await self._has_room_after(decision.swap_to, (*decision.end, *decision.hold)):
                            continue
                        decision = self._decide()  # a request may have come meanwhile
                    self._apply(decision, lives)
                    self._offer.tell()
                    timeout_s = None if decision.wake_at is None else max(0.0, decision.wake_at - loop.time())
                    with suppress(TimeoutError):
                        async with asyncio.timeout(timeout_s):
                            await self._poke.wait()
            finally:
                self.close()

    def _decide(self) -> Decision:
        return self._preference.decide(self._rules, now=asyncio.get_running_loop().time())

    async def _has_room_after(self, number: int, ended: Sequence[int]) -> bool:
        """Whether an engine would fit in what these give back: asked before they make room for it, not afterwards."""
        held = [self.links[other].forecast.held for other in ended]
        if any(of.gpu_bytes is None for of in held):
            return True  # who knows
        coming_back = Held(sum(of.gpu_bytes or 0 for of in held), sum(of.host_bytes or 0 for of in held))
        link = self.links[number]
        link.refusal = await link.forecast.refuses(coming_back)
        if link.refusal is not None:
            self._note(number, link.refusal, was_stable=False)
        return link.refusal is None

    def _apply(self, decision: Decision, lives: asyncio.TaskGroup) -> None:
        if decision.swap_to is not None:
            self._offer.is_swapping = True
            self._preference.begin_with(decision.swap_to)
        elif decision.serve is not None:
            self._offer.is_swapping = False
            self._preference.begin_after(decision.serve)
        if decision.is_exhausted and not self.is_exhausted:
            self._offer.is_swapping = False
            log.error("no engine could be started", service=self._service)
        self.is_exhausted = decision.is_exhausted
        for number in decision.hold:
            self.links[number].is_held = True
            self._note_serving(OPERATOR)
            self._poke.set()
        for number in decision.end:
            link = self.links[number]
            self._tell("engine not needed any more", link)
            self._withdraw(link, NOT_NEEDED)
            if link.life is not None:
                link.life.cancel()
        for number in decision.start:
            link = self.links[number]
            link.become(Phase.STARTING)
            link.life = lives.create_task(self._live(number), name=f"engine {self._service} {link.engine.name}")

    def _withdraw(self, link: Link, why: str) -> None:
        """Nothing new goes to an engine from here on."""
        link.serving = None
        link.become(Phase.ENDING)
        self._note_serving(why)

    def _note_serving(self, why: str) -> None:
        self.moves.serving_is(self.serving and self.serving.engine, why)

    async def _live(self, number: int) -> None:
        """One life of an engine, from its start to its end."""
        link, loop = self.links[number], asyncio.get_running_loop()
        try:
            self._tell("engine starting", link)
            began = loop.time()
            if link.memory is not None:
                await link.memory.note()
            try:
                await self._start(link)
            except EngineFailure as failure:
                self._note(number, failure, was_stable=False)
                return
            link.load_s = round(loop.time() - began, 2)
            await link.forecast.measure(link.engine.pid)
            self._tell("engine ready", link, load_s=link.load_s)
            self._warn(link, link.forecast.shortcomings)
            await self._serve(number)
        finally:
            link.become(Phase.ENDING)
            await _end(link.engine)
            if link.memory is not None and not self._offer.is_closed:
                await link.memory.returned()
            link.become(Phase.DOWN)
            self._poke.set()

    async def _start(self, link: Link) -> None:
        """Raises `EngineFailure`, also where the plan says that it would only fail later."""
        link.refusal = await link.forecast.refuses()
        if link.refusal is not None:
            raise link.refusal
        self._warn(link, link.forecast.doubts)
        link.n_starts += 1
        await link.engine.start()

    async def _serve(self, number: int) -> None:
        """Let an engine answer until it fails. Cancelled where it is not wanted any more."""
        link, loop = self.links[number], asyncio.get_running_loop()
        client = EngineClient(link.engine.endpoint)
        serving = link.serving = Serving(
            link.engine, client, self._wake, self._has_two_up, partial(self._note_speed, link)
        )
        link.become(Phase.UP)
        self._note_serving(FAILBACK)
        self._poke.set()
        try:
            async with trying_out(serving, link.forecast):
                failure = await serving.watch(self._settings)
            was_stable = loop.time() - serving.up_since >= self._settings.stable_after_s
            self._withdraw(link, str(failure.reason))
            self._poke.set()
        finally:
            link.serving = None
            serving.give_up()
            await client.close()
        failure = await _cause(link.engine, failure)
        self.moves.cause_was(link.engine, str(failure.reason))
        self._note(number, failure, was_stable=was_stable)
        await link.engine.condemn(failure)

    def _has_two_up(self) -> bool:
        return sum(link.serving is not None for link in self.links) > 1

    def _wake(self) -> None:
        """An engine became idle, or was judged: that may change what is to be done, and whom somebody waits for."""
        self._poke.set()

    def _note_speed(self, link: Link, sample: Sample) -> None:
        if link.forecast.note(sample):
            self._warn(link, link.forecast.shortcomings)

    def _warn(self, link: Link, warnings: Sequence[str]) -> None:
        for warning in warnings:
            self._tell("engine is not as planned", link, level=logging.WARNING, warning=warning)

    def _note(self, number: int, failure: EngineFailure, *, was_stable: bool) -> None:
        link = self.links[number]
        link.note(failure, asyncio.get_running_loop().time(), was_stable=was_stable)
        if self.serving is None:
            self._preference.begin_after(number)
        told = {"reason": str(failure.reason), "detail": failure.detail, "exit_code": failure.exit_code}
        self._tell("engine failed", link, level=logging.WARNING, **told)

    def _tell(self, event: str, link: Link, *, level: int = logging.INFO, **more: object) -> None:
        log.log(level, event, service=self._service, engine=link.engine.name, device=link.engine.device, **more)
