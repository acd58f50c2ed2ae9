"""What an operator does meanwhile: keys come and go, the configuration is changed, spoilt and read again, health is
asked for."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from typing import Final

import aiohttp

from gguf_server import keys
from tests.soak.program import MAX_QUEUE, SERVICES, Program
from tests.soak.traffic import CLASSES

_HEALTH_EVERY_S: Final = 0.5
_CHORE_EVERY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Health:
    """One answer to `/health`. `asked`: of the event loop's clock, in seconds."""

    service: str
    asked: float
    took_s: float
    status: int
    says_when: bool


class Operator:
    """`healths` and `problems` grow while its tasks run; `n_chores` counts by name what was done."""

    def __init__(self, program: Program, session: aiohttp.ClientSession) -> None:
        self.healths: list[Health] = []
        self.problems: list[str] = []
        self.n_chores = {"keys": 0, "reloads": 0, "refused reloads": 0}
        self._max_queue = MAX_QUEUE
        self._program = program
        self._session = session

    async def watch_health(self, until: float) -> None:
        clock = asyncio.get_running_loop().time
        while clock() < until:
            for service in SERVICES:
                asked = clock()
                async with self._session.get(f"{self._program.url}/{service}/health") as response:
                    await response.read()
                    says_when = "Retry-After" in response.headers
                    self.healths.append(Health(service, asked, clock() - asked, response.status, says_when))
            await asyncio.sleep(_HEALTH_EVERY_S)

    async def do_chores(self, until: float) -> None:
        clock = asyncio.get_running_loop().time
        turn = 0
        while clock() < until:
            await self._lend_a_key(f"guest-{turn}")
            if turn:
                await self._check_last_good()
            self._reload(turn)
            turn += 1
            await asyncio.sleep(min(_CHORE_EVERY_S, max(0.0, until - clock())))
        self._program.write_config()

    async def _lend_a_key(self, name: str) -> None:
        path = self._program.keys_file
        _, token = await asyncio.to_thread(keys.create, path, name)
        was = [await self._knock(token)]
        await asyncio.to_thread(keys.revoke, path, name)
        was.append(await self._knock(token))
        if was != [200, 401]:
            self.problems.append(f"a key that was made and revoked was answered {was}")
        self.n_chores["keys"] += 1

    async def _knock(self, token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        async with self._session.get(f"{self._program.url}/first/v1/models", headers=headers) as response:
            return response.status

    async def _check_last_good(self) -> None:
        """The configuration that could be read last is in force, whatever came after it."""
        headers = {"Authorization": f"Bearer {self._program.tokens[CLASSES[0].name]}"}
        async with self._session.get(f"{self._program.url}/first/status", headers=headers) as response:
            seen = (await response.json())["queue"]["max_queue"]
        if seen != self._max_queue:
            self.problems.append(f"max_queue is {seen}, the last good configuration says {self._max_queue}")

    def _reload(self, turn: int) -> None:
        """Every third configuration cannot be read."""
        if turn % 3 == 2:
            self._program.config_file.write_text("[server\n")
            self.n_chores["refused reloads"] += 1
        else:
            self._max_queue = MAX_QUEUE + turn % 2
            self._program.write_config(max_queue=self._max_queue)
            self.n_chores["reloads"] += 1
        self._program.process.send_signal(signal.SIGHUP)
