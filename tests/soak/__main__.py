"""`python -m tests.soak --minutes 30 --seed 1 --out bench-results/soak`: status 1 where something did not hold.

    phase       what happens
    capacity    as many clients as there are places ask one after the other: what the services can answer per second
    calm        half of that, engines suffer
    overload    twice of that, engines suffer, keys come and go, the configuration is read again
    end         SIGTERM while answers run: those are finished

Everything is driven by HTTP and signals; the engines are fakes that take their time without computing, so that two
cores carry all of it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from functools import partial
from pathlib import Path

import aiohttp

from tests.soak import report, vitals
from tests.soak.client import Outcome, ask_once
from tests.soak.faults import Tormentor
from tests.soak.judgement import violations
from tests.soak.operator import Operator
from tests.soak.parting import part
from tests.soak.program import MAX_CONCURRENT, SERVICES, Program, running
from tests.soak.record import Phase, Soak, elapsed, latency
from tests.soak.traffic import CLASSES, Ask, arrive, draw

_REST_S = 2.0
_FAULT_PAUSE_S = 6.0
_NORMAL = "office"


class Run:
    """One soak on its way; `soak` is what it has seen."""

    def __init__(self, program: Program, soak: Soak, dice: random.Random) -> None:
        self.soak = soak
        self._program = program
        self._dice = dice

    async def measure_capacity(self, duration_s: float) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        outcomes: list[Outcome] = []

        async def keep_asking(session: aiohttp.ClientSession, service: str) -> None:
            while clock() < began + duration_s:
                outcomes.append(await self._ask(session, _NORMAL, service))

        async with _session() as session, asyncio.TaskGroup() as clients:
            for service in SERVICES:
                for _ in range(MAX_CONCURRENT):
                    clients.create_task(keep_asking(session, service))
        # A client that leaves early frees its place early, in the load to come as well as here.
        self.soak.capacity_per_s = len(outcomes) / (clock() - began)
        self.soak.answer_s = latency(outcomes, elapsed).p95_s or 1.0
        self.soak.outcomes += outcomes

    async def press(self, name: str, duration_s: float, shares: dict[str, float]) -> None:
        """One phase of load; `shares` are those of the capacity, by class."""
        clock = asyncio.get_running_loop().time
        began = clock()
        until = began + duration_s
        async with _session() as session, asyncio.TaskGroup() as all_of_it:
            operator = Operator(self._program, session)
            token = self._program.tokens[_NORMAL]
            tormentors = [Tormentor(self._program, session, of, token, self._own_dice()) for of in SERVICES]
            for tormentor in tormentors:
                all_of_it.create_task(tormentor.run(until - _FAULT_PAUSE_S, _FAULT_PAUSE_S))
            sampling = all_of_it.create_task(vitals.sample(self._program, until))
            all_of_it.create_task(operator.watch_health(until))
            all_of_it.create_task(operator.do_chores(until))
            arriving = [
                all_of_it.create_task(
                    arrive(self.soak.capacity_per_s * share, until, self._own_dice(), partial(self._send, session, of))
                )
                for of, share in shares.items()
            ]
        self.soak.phases.append(Phase(name, began, until))
        self.soak.vitals += sampling.result()
        self.soak.lags_s += [lag for one in arriving for lag in one.result()]
        self.soak.sufferings += [one for tormentor in tormentors for one in tormentor.sufferings]
        self.soak.healths += operator.healths
        self.soak.chore_problems += operator.problems
        for chore, n in operator.n_chores.items():
            self.soak.n_chores[chore] = self.soak.n_chores.get(chore, 0) + n

    async def rest(self) -> None:
        """Until what is being ended has ended; then look at what is held."""
        await asyncio.sleep(_REST_S)
        self.soak.idle.append(vitals.read(self._program, asyncio.get_running_loop().time()))

    async def part(self) -> None:
        async with _session() as session:
            outcomes, problems = await part(self._program, partial(self._ask, session, _NORMAL))
        self.soak.outcomes += outcomes
        self.soak.parting += problems

    async def _send(self, session: aiohttp.ClientSession, of: str) -> None:
        self.soak.outcomes.append(await self._ask(session, of, self._dice.choice(list(SERVICES))))

    async def _ask(self, session: aiohttp.ClientSession, of: str, service: str, ask: Ask | None = None) -> Outcome:
        token = self._program.tokens[of]
        return await ask_once(session, self._program.url, service, ask or draw(self._dice), of=of, token=token)

    def _own_dice(self) -> random.Random:
        return random.Random(self._dice.random())


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None))


async def soaked(minutes: float, seed: int, *, equal_keys: bool, folder: Path) -> Soak:
    """Blocks for that long, and some seconds."""
    whole_s = 60 * minutes
    soak = Soak(seed=seed, equal_keys=equal_keys)
    priorities = {one.name: None if equal_keys else one.priority for one in CLASSES}
    async with running(folder, priorities) as program:
        run = Run(program, soak, random.Random(seed))
        await run.measure_capacity(max(3.0, 0.03 * whole_s))
        await run.rest()
        await run.press("calm", 0.17 * whole_s, {one.name: one.calm_share for one in CLASSES})
        await run.press("overload", 0.8 * whole_s, {one.name: one.overload_share for one in CLASSES})
        await run.rest()
        await run.part()
    return soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.soak", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench-results/soak"), help="folder of soak.json and soak.md")
    parser.add_argument("--equal-keys", action="store_true", help="no priorities: whether they hold is not judged")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soak = asyncio.run(soaked(options.minutes, options.seed, equal_keys=options.equal_keys, folder=Path(folder)))
        problems = violations(soak)
        report.write(soak, problems, options.out)
        if problems:
            log = Path(folder) / "server.log"
            (options.out / "server.log").write_bytes(log.read_bytes())
    print(report.markdown(soak, problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
