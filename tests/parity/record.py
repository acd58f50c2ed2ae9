"""What vLLM answered: `vllm.json` beside this file, so that the worker can be held to it where there is no vLLM.

python -m tests.parity.record URL    # of a running vLLM that serves the stand-in; `unix:PATH` for a socket
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

import aiohttp

from tests.parity.observe import Observation, observe
from tests.parity.shape import Shape
from tests.parity.suite import SUITE

RECORD: Final = Path(__file__).with_name("vllm.json")
_REQUEST_LIMIT_S: Final = 120.0


def recorded() -> dict[str, Observation]:
    """By the name of the case."""
    record = json.loads(RECORD.read_text())
    shapes = record["shapes"]
    return {
        name: Observation(seen["status"], shapes[seen["shape"]], seen["facts"])
        for name, seen in record["answers"].items()
    }


def write(observations: dict[str, Observation]) -> None:
    """A line for each shape, which many answers share, and for each answer, so that a change can be read."""
    shapes: list[Shape] = []
    answers = {}
    for name, seen in observations.items():
        if seen.shape not in shapes:
            shapes.append(seen.shape)
        answers[name] = {"status": seen.status, "shape": shapes.index(seen.shape), "facts": seen.facts}
    shape_lines = ",\n".join(json.dumps(shape) for shape in shapes)
    answer_lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(seen)}" for name, seen in answers.items())
    RECORD.write_text(f'{{"shapes": [\n{shape_lines}\n],\n"answers": {{\n{answer_lines}\n}}}}\n')


def connect(url: str) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=_REQUEST_LIMIT_S)
    if url.startswith("unix:"):
        connector = aiohttp.UnixConnector(url.removeprefix("unix:"), limit=0, force_close=True)
        return aiohttp.ClientSession("http://localhost", connector=connector, timeout=timeout)
    return aiohttp.ClientSession(url, timeout=timeout)


async def observe_all(url: str, *, together: int) -> dict[str, Observation]:
    """The whole suite, `together` requests at a time."""
    gate = asyncio.Semaphore(together)

    async def one(session: aiohttp.ClientSession, number: int) -> Observation:
        async with gate:
            return await observe(session, SUITE[number])

    async with connect(url) as session, asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(session, number)) for number in range(len(SUITE))]
    return {case.name: task.result() for case, task in zip(SUITE, tasks, strict=True)}


def main() -> None:
    (url,) = sys.argv[1:]
    write(asyncio.run(observe_all(url, together=1)))


if __name__ == "__main__":
    main()
