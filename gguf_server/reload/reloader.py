"""Reading the configuration again, and going by it: all of it, or, where anything is wrong with it, nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import structlog

from gguf_server.config import ConfigError
from gguf_server.gateway import Gateway
from gguf_server.keys import KeyRing, KeysError
from gguf_server.limits.configured import defaults
from gguf_server.listeners import Listeners
from gguf_server.logging_config import set_up_logging
from gguf_server.reload.outcome import Outcome, describe
from gguf_server.reload.plan import ChangeTable, Plan
from gguf_server.reload.roster import Roster
from gguf_server.settings import Settings

_LOGGING: Final = {"log_level", "log_format"}

log = structlog.get_logger("reload")


class Reloader:
    """One reload at a time. `last` is what came of the last one."""

    def __init__(
        self,
        gateway: Gateway,
        roster: Roster,
        listeners: Listeners,
        *,
        load: Callable[[], Settings],
        open_keyring: Callable[[Settings], KeyRing],
        has_cards: bool = False,
    ) -> None:
        self._gateway = gateway
        self._roster = roster
        self._listeners = listeners
        self._load = load
        self._open_keyring = open_keyring
        self._has_cards = has_cards
        self._turn = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._wanted_by = ""
        self.last: Outcome | None = None

    def ask(self, asked_by: str) -> None:
        """Have `run` do it. Several wishes before its turn are one."""
        self._wanted_by = asked_by
        self._wanted.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self.reload(self._wanted_by)

    async def reload(self, asked_by: str) -> Outcome:
        """Returns when the new settings are in force; engines may still be loading, or finishing."""
        async with self._turn:
            at = datetime.now(UTC)
            try:
                done = await self._go_by(await asyncio.to_thread(self._load))
            except ConfigError as error:
                self.last = Outcome(at, asked_by, problems=tuple(error.problems))
            else:
                changes = tuple(describe(action) for action in done.actions)
                self.last = Outcome(at, asked_by, changes=changes, needs_restart=done.needs_restart)
            _log(self.last)
            return self.last

    async def _go_by(self, new: Settings) -> Plan:
        """Raises `ConfigError` before anything has changed."""
        gateway = self._gateway
        keyring = self._keyring(new)
        ports = [service.port for service in new.services.values() if service.port]
        if gateway.settings.server.port in ports:
            problem = f"port {gateway.settings.server.port} is the shared listener's until the next restart"
            raise ConfigError(problem)
        try:
            await self._listeners.open(ports)
        except OSError as error:
            raise ConfigError(f"cannot listen: {error.strerror or error}") from error
        found = self._roster.plan(new, has_cards=self._has_cards)
        gateway.keyring = keyring
        await self._roster.apply(found)
        for action in found.actions:
            match action:
                case ChangeTable("server", what) if _LOGGING.intersection(what):
                    set_up_logging(found.settings.server)
                case ChangeTable("limits"):
                    gateway.limiter.defaults = defaults(found.settings.limits)
                case _:
                    pass
        return found

    def _keyring(self, new: Settings) -> KeyRing:
        if new.server.keys_file == self._gateway.settings.server.keys_file:
            return self._gateway.keyring
        try:
            keyring = self._open_keyring(new)
        except KeysError as error:
            raise ConfigError(f"server.keys_file: {error}") from error
        if not keyring.has_keys:
            raise ConfigError("server.keys_file: there is no key in it: nobody could come in")
        return keyring


def _log(outcome: Outcome) -> None:
    for problem in outcome.problems:
        log.error("configuration refused, the old one stays in force", problem=problem, asked_by=outcome.asked_by)
    for change in outcome.changes:
        log.info("configuration changed", change=change, asked_by=outcome.asked_by)
    for setting in outcome.needs_restart:
        log.warning("takes effect at the next start only", setting=setting)
    if not (outcome.problems or outcome.changes or outcome.needs_restart):
        log.info("configuration read again: nothing has changed", asked_by=outcome.asked_by)
