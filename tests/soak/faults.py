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
            await self._strike(kind)
            suffering.has_recovered = await self._recovered()
            suffering.ended = clock()

    async def _strike(self, kind: str) -> None:
        status = await self._status()
        names = [engine for engine in status["engines"] if engine["state"] == "ready"]
        serving = [engine for engine in names if engine["name"] == status["engine"]]
        chosen = self._dice.choice(names) if self._dice.random() < 0.2 else next(iter(serving), None)
        with suppress(psutil.Error):
            for victim in psutil.Process(chosen["pid"]).children() if chosen else ():
                if kind in BY_SIGNAL:
                    victim.send_signal(BY_SIGNAL[kind])
                else:
                    await self._arm(victim, kind)

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

    async def _recovered(self) -> bool:
        """Whether it was, and stayed so, within the time it has for that."""
        n_settled = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_RECOVERY_S):
                while n_settled < _N_SETTLED:
                    await asyncio.sleep(_POLL_S)
                    n_settled = n_settled + 1 if _is_settled(await self._status()) else 0
                return True
        return False

    async def _status(self) -> dict[str, Any]:
        async with self._session.get(self._url, headers=self._headers) as response:
            answer: dict[str, Any] = await response.json()
            return answer


def _is_settled(status: dict[str, Any]) -> bool:
    """The first engine serves, and nothing comes or goes."""
    engines = status["engines"]
    return engines[0]["name"] == status["engine"] and not any(engine["state"] in _MOVING for engine in engines)
