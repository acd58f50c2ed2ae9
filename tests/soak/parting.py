"""SIGTERM while answers run: they are finished, new ones are refused, nothing is left, and the exit status is 0."""

from __future__ import annotations

import asyncio
import signal
from typing import Final, Protocol

import psutil

from tests.soak.client import Outcome
from tests.soak.program import MAX_CONCURRENT, SERVICES, Program
from tests.soak.traffic import CHAT, Ask
from tests.soak.verdict import End

_BEGUN_S: Final = 0.2
_END_S: Final = 40.0
_MESSAGES: Final = [{"role": "user", "content": "Count, please."}]


class AskOnce(Protocol):
    async def __call__(self, service: str, ask: Ask) -> Outcome: ...


async def part(program: Program, ask_once: AskOnce) -> tuple[list[Outcome], list[str]]:
    """The last answers, and what was wrong with the end."""
    children = program.descendants()
    ask = Ask("parting", CHAT, {"messages": _MESSAGES, "stream": True})
    running = [asyncio.create_task(ask_once(of, ask)) for of in SERVICES for _ in range(MAX_CONCURRENT)]
    await asyncio.sleep(_BEGUN_S)
    program.process.send_signal(signal.SIGTERM)
    outcomes = await asyncio.gather(*running)
    problems = [f"an answer that ran at SIGTERM ended {one.end}" for one in outcomes if one.end is not End.WHOLE]
    status = await asyncio.to_thread(program.process.wait, _END_S)
    if status != 0:
        problems.append(f"the gateway ended with status {status}")
    _, left = await asyncio.to_thread(psutil.wait_procs, children, 10.0)
    if left:
        problems.append(f"{len(left)} processes were left")
    return outcomes, problems
