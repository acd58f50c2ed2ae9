"""Engines that die, hang, crawl and lie, one at a time in each service, and how long the service suffered from it."""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import psutil

from tests.soak.program import Program

BY_SIGNAL: Final = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
ARMED: Final = ("exit", "hang", "error_500", "error_event", "garbage", "cut", "slow")
_RECOVERY_S: Final = 40.0
_POLL_S: Final = 0.1
_N_SETTLED: Final = 10  # the gateway may need a moment to notice what was done to an engine
_ARM_S: Final = 2.0
_AT_RANDOM: Final = 0.2  # of the faults, for whichever engine is up, the one in waiting too
_MOVING: Final = frozenset({"starting", "draining"})


@dataclass(slots=True)
class Suffering:
    """`ended`: when all was well again; infinite until then. Times of the event loop's clock, in seconds."""

    service: str
    kind: str
    began: float
    ended: float = float("inf")
    has_recovered: bool = True

    def touches(self, service: str, began: float, ended: float, *, margin_s: float = 0.0) -> bool:
        return service == self.service and began <= self.ended + margin_s and ended >= self.began


class Tormentor:
    """One service's. `sufferings` grows while `run` does, which ends with the last one over."""

    def __init__(
        self, program: Program, session: aiohttp.ClientSession, service: str, token: str, dice: random.Random
    ) -> None:
        self.sufferings: list[Suffering] = []
        self._program = program
        self._session = session
        self._url = f"{program.url}/{service}/status"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._service = service
        self._dice = dice

    async def run(self, until: float, pause_s: float) -> None:
        """`pause_s`: the mean of the calm between two faults."""
        clock = asyncio.get_running_loop().time
        while True:
            calm_s = min(self._dice.expovariate(1 / pause_s), 3 * pause_s)
            if clock() + calm_s > until:
                return
            await asyncio.sleep(calm_s)
            kind = self._dice.choice((*BY_SIGNAL, *ARMED))
            suffering = Suffering(self._service, kind, clock())
            self.sufferings.append(suffering)
            doomed = await self._strike(kind)
            suffering.has_recovered = await self._recovered(doomed)
            suffering.ended = clock()

    async def _strike(self, kind: str) -> int | None:
        """The process group that cannot survive it, where that is certain."""
        status = await self._status()
        ready = [engine for engine in status["engines"] if engine["state"] == "ready"]
        serving = next((engine for engine in ready if engine["name"] == status["engine"]), None)
        chosen = self._dice.choice(ready) if ready and self._dice.random() < _AT_RANDOM else serving
        if chosen is None:
            return None
        with suppress(psutil.Error):
            (victim,) = psutil.Process(chosen["pid"]).children()
            if kind not in BY_SIGNAL:
                await self._arm(victim, kind)
                return None
            victim.send_signal(BY_SIGNAL[kind])
        return int(chosen["pid"])

    async def _arm(self, victim: psutil.Process, kind: str) -> None:
        arguments = victim.cmdline()
        connector = aiohttp.UnixConnector(arguments[arguments.index("--uds") + 1])
        fault = {"kind": kind, "after_words": self._dice.randint(0, 20), "s": 0.2, "exit_after_s": 0.3}
        async with aiohttp.ClientSession("http://fake", connector=connector) as engine:
            for armed in (fault, {"kind": "none"}):
                with suppress(aiohttp.ClientError, TimeoutError, OSError):  # it may be dead by now
                    async with asyncio.timeout(_ARM_S), engine.post("/_fault", json=armed) as response:
                        await response.read()
                await asyncio.sleep(0 if armed is not fault else self._dice.uniform(0.5, 3.0))

    async def _recovered(self, doomed: int | None) -> bool:
        """Whether it was, and stayed so, within the time it has for that; one that is doomed may seem well first."""
        n_settled = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_RECOVERY_S):
                while n_settled < _N_SETTLED:
                    await asyncio.sleep(_POLL_S)
                    n_settled = n_settled + 1 if _is_settled(await self._status(), doomed) else 0
                return True
        return False

    async def _status(self) -> dict[str, Any]:
        async with self._session.get(self._url, headers=self._headers) as response:
            answer: dict[str, Any] = await response.json()
            return answer


def _is_settled(status: dict[str, Any], doomed: int | None) -> bool:
    """The first engine serves, nothing comes or goes, and what is doomed is gone."""
    engines = status["engines"]
    is_moving = any(engine["state"] in _MOVING for engine in engines)
    is_doomed_there = doomed is not None and any(engine["pid"] == doomed for engine in engines)
    return engines[0]["name"] == status["engine"] and not is_moving and not is_doomed_there
