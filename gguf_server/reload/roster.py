"""The services that the gateway offers, and how they change while it answers.

What is asked of one that is being replaced waits or goes on; nothing is cut. Where other engines will not come up, the
old ones stay, or come back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

import structlog

from backends.base import FailureReason
from gguf_server.admission import Admission
from gguf_server.chain import EngineChain
from gguf_server.errors import Conflict
from gguf_server.gateway import Gateway
from gguf_server.reload.lives import Lives
from gguf_server.reload.plan import Add, Change, ChangeTable, Plan, Remove, Replace, needs_engines, plan
from gguf_server.service import Service
from gguf_server.settings import ServiceSettings, Settings

log = structlog.get_logger("reload")


class MakeChain(Protocol):
    """Engines for a service, nothing started. Requests wait for those that are awaited."""

    def __call__(self, name: str, settings: ServiceSettings, *, is_awaited: bool = False) -> EngineChain: ...


@dataclass(slots=True, eq=False)
class Move:
    """A service on its way to other engines. `settings` come into force with them.

    `back`: settings of engines that did answer, which are to come back where these do not come up. They are still there
    where the move is not yet `is_public`.
    """

    settings: ServiceSettings
    chain: EngineChain
    after: tuple[str, ...]
    is_public: bool
    back: ServiceSettings | None = None
    task: asyncio.Task[None] | None = None


class Roster:
    """`update` shows the gateway's services to its listeners. For one owner: the reloader, one plan at a time."""

    def __init__(self, gateway: Gateway, lives: Lives, make_chain: MakeChain, update: Callable[[], None]) -> None:
        self._gateway = gateway
        self._lives = lives
        self._make_chain = make_chain
        self._update = update
        self._built: WeakKeyDictionary[EngineChain, ServiceSettings] = WeakKeyDictionary()
        self._moves: dict[str, Move] = {}
        self.failures: dict[str, str] = {}

    def start(self) -> None:
        """Begin with the services that the gateway has."""
        for name, service in self._gateway.services.items():
            self._built[service.chain] = service.settings
            self._lives.start(name, service.chain)

    @property
    def moving(self) -> Mapping[str, str]:
        """Services that wait for other engines, and what is happening to them."""
        return {
            name: "the old engines make room for others" if move.is_public else "other engines are loaded beside these"
            for name, move in self._moves.items()
        }

    def plan(self, new: Settings, *, has_cards: bool) -> Plan:
        """What has to be done. A move that leads where these settings lead goes on; another one is given up."""
        settings, built = {}, {}
        for name, service in self._gateway.services.items():
            move = self._moves.get(name)
            if move is not None and not move.is_public:
                if name in new.services and not needs_engines(self._built[move.chain], new.services[name]):
                    settings[name], built[name] = move.settings, self._built[move.chain]
                    continue
                self._give_up(name, move)
            settings[name], built[name] = service.settings, self._built[service.chain]
        old = self._gateway.settings.model_copy(update={"services": settings})
        leaving = [(name, self._built[chain]) for chain, name in self._lives.leaving.items()]
        return plan(old, new, built=built, leaving=leaving, has_cards=has_cards)

    async def apply(self, found: Plan) -> None:
        """Returns when everything is under way: engines may still be loading or finishing."""
        gateway, adopting = self._gateway, []
        gateway.settings = found.settings
        for action in found.actions:
            match action:
                case Remove(name):
                    self._remove(name)
                case Add():
                    self._add(action)
                case Replace():
                    self._replace(action)
                case Change(name, settings):
                    adopting.append(self._change(name, settings))
                case ChangeTable():
                    pass
        ordered = {name: gateway.services[name] for name in found.settings.services}
        gateway.services.clear()
        gateway.services.update(ordered)
        self._update()
        for service in adopting:
            of = service.settings
            with suppress(Conflict):  # other engines have been made by these settings meanwhile
                await service.chain.adopt(of.failover, warm_standby=of.standby == "warm", plan=of.plan)

    def _add(self, action: Add) -> None:
        chain = self._new_chain(action.name, action.settings, is_awaited=False)
        of = action.settings
        admission = Admission(of.max_concurrent, of.max_queue)
        self._gateway.services[action.name] = Service(action.name, of, chain, admission)
        _ = self._lives.begin(self._start_after(action.name, chain, action.after), f"start of {action.name}")

    async def _start_after(self, name: str, chain: EngineChain, others: Collection[str]) -> None:
        """Start engines that need what engines of those others still hold."""
        for other in others:
            move = self._moves.get(other)
            if move is not None and not move.is_public and other != name:
                await self._lives.wait_done(move.task)
        await self._lives.wait_gone(others)
        self._lives.start(name, chain)

    def _remove(self, name: str) -> None:
        """New requests do not find it; what is running or waiting is answered, then its engines end."""
        if (move := self._moves.get(name)) is not None:
            self._give_up(name, move)
        service = self._gateway.services.pop(name)
        service.is_gone = True
        self._gateway.retiring.append(service)
        chain = service.chain

        async def is_idle() -> None:
            if chain.may_answer:
                await service.idle.wait()
            self._gateway.retiring.remove(service)
            log.info("service removed", service=name)

        self._lives.leave(name, chain, is_idle)
        self.failures.pop(name, None)

    def _change(self, name: str, settings: ServiceSettings) -> Service:
        """New requests go by these settings; the engines stay."""
        move = self._moves.get(name)
        if move is not None and not move.is_public:
            move.settings = settings
            return self._mount_as(name, settings)
        service = self._gateway.services[name]
        return self._publish(name, settings, service.chain)

    def _replace(self, action: Replace) -> None:
        name, of = action.name, action.settings
        old = self._gateway.services[name]
        before = self._moves.get(name)
        back = old.settings if old.chain.serving is not None else None
        if before is not None:
            back = back or before.back
            self._give_up(name, before)
        is_beside = action.is_beside and old.chain.serving is not None
        chain = self._new_chain(name, of, is_awaited=not is_beside)
        move = self._moves[name] = Move(of, chain, action.after, is_public=not is_beside, back=back)
        self.failures.pop(name, None)
        if is_beside:
            self._mount_as(name, of)
            move.task = self._lives.begin(self._bring_up_beside(name, move), f"other engines for {name}")
        else:
            self._make_public(name, move)
            move.task = self._lives.begin(self._exchange(name, move), f"other engines for {name}")

    async def _bring_up_beside(self, name: str, move: Move) -> None:
        await self._start_after(name, move.chain, move.after)
        if await _comes_up(move.chain):
            del self._moves[name]
            self._make_public(name, move)
            self._update()
            log.info("other engines have taken over", service=name)
            return
        why, is_short = _failures(move.chain), _is_short_of_memory(move.chain)
        await self._lives.end(move.chain)
        if is_short:
            log.info("there is no room for other engines beside these, which make it", service=name)
            move.chain, move.is_public = self._new_chain(name, move.settings, is_awaited=True), True
            self._make_public(name, move)
            self._update()
            await self._exchange(name, move)
            return
        del self._moves[name]
        self._note_failure(name, why, "the old ones stay")

    async def _exchange(self, name: str, move: Move) -> None:
        """Start engines when those before them are gone. Requests wait meanwhile."""
        await self._start_after(name, move.chain, {name, *move.after})
        is_up = await _comes_up(move.chain)
        del self._moves[name]
        if is_up or move.back is None:
            move.chain.expect_no_more()
            log.log(logging.INFO if is_up else logging.ERROR, "other engines were started", service=name, up=is_up)
            return
        self._note_failure(name, _failures(move.chain), "the old ones are loaded again")
        chain = self._new_chain(name, move.back, is_awaited=True)
        self._publish(name, move.back, chain)
        self._update()
        await self._start_after(name, chain, {name})
        await _comes_up(chain)
        chain.expect_no_more()

    def _note_failure(self, name: str, why: str, then: str) -> None:
        self.failures[name] = f"other engines would not start ({why}): {then}"
        log.error("other engines would not start", service=name, why=why, then=then)

    def _give_up(self, name: str, move: Move) -> None:
        """Whatever it has come to; engines that are not public yet are ended."""
        del self._moves[name]
        if move.task is not None:
            move.task.cancel()
        if not move.is_public:
            self._lives.leave(name, move.chain, move.chain.wait_unused)

    def _make_public(self, name: str, move: Move) -> None:
        self._publish(name, move.settings, move.chain)

    def _mount_as(self, name: str, settings: ServiceSettings) -> Service:
        """Be found where these settings say already: another service may have the old place now."""
        service = self._gateway.services[name]
        where = {"paths": settings.paths, "port": settings.port}
        return self._publish(name, service.settings.model_copy(update=where), service.chain)

    def _publish(self, name: str, settings: ServiceSettings, chain: EngineChain) -> Service:
        old = self._gateway.services[name]
        new = self._gateway.services[name] = old.become(settings, chain)
        new.admission.resize(settings.max_concurrent, settings.max_queue)
        if chain is not old.chain:
            old.chain.succeed_by(chain)
            self._lives.leave(name, old.chain, old.chain.wait_unused)
        return new

    def _new_chain(self, name: str, settings: ServiceSettings, *, is_awaited: bool) -> EngineChain:
        chain = self._make_chain(name, settings, is_awaited=is_awaited)
        self._built[chain] = settings
        return chain


async def _comes_up(chain: EngineChain) -> bool:
    """Wait for the first engine that answers, or until each has failed once: it may take them long to do so again."""
    while chain.serving is None:
        if chain.is_closed or all(link.failed_at is not None for link in chain.links):
            return False
        await chain.wait_changed()
    return True


def _failures(chain: EngineChain) -> str:
    return "; ".join(f"{link.engine.name}: {link.failure}" for link in chain.links if link.failure is not None)


def _is_short_of_memory(chain: EngineChain) -> bool:
    """Whether nothing was even tried, for want of memory that engines hold which are to go."""
    refusals = [link.refusal for link in chain.links]
    return all(refusal is not None and refusal.reason is FailureReason.OUT_OF_MEMORY for refusal in refusals)
