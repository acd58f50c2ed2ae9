"""What a proxy adds in front of an engine: time to the first token, processor time, and how much it can carry.

    python -m bench.peers proxies --work DIR     # what to type to start everything and to measure it
    python -m bench.overhead --upstream URL --proxy gateway=URL,key=.. --proxy litellm=URL,key=.. --out FILE.json

The upstream is `bench.upstream`. Every repetition measures all targets after each other, the upstream itself as
`direct`, which shows what client and upstream can do alone and what to subtract. What is measured is in `MEASURES`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

import aiohttp
import orjson
import psutil

from bench.measuring.ask import Answer, ask, ask_together, check
from bench.measuring.load import Target, connect
from bench.measuring.result import percentile
from bench.reports.overhead_table import CAVEAT, DIRECT, Sample, report, table
from bench.servers import processes, story

_START_LIMIT_S: Final = 90.0
_START_POLL_S: Final = 0.5
_SHORT: Final = 16  # chunks of an answer where its beginning or its whole is looked at


@dataclass(frozen=True, slots=True)
class Plan:
    """`targets` begin with the upstream itself. A request's text does not differ between targets."""

    targets: tuple[Target, ...]
    repeat: int
    requests: int
    streams: int
    chunks: int
    unpaced_chunks: int
    interval_ms: float
    rate: float


@dataclass(frozen=True, slots=True)
class Pace:
    """Of the upstream; no interval is as fast as it goes."""

    interval_ms: float = 0.0
    in_step: bool = False


Figures = dict[str, float]
Measure = Callable[[Plan, Target, aiohttp.ClientSession], Awaitable[Figures]]


async def first_chunk(plan: Plan, target: Target, session: aiohttp.ClientSession) -> Figures:
    """One stream at a time."""
    answers = await ask_together(session, target.model, _SHORT, streams=1, requests=plan.requests, stream=True)
    check(answers, _SHORT, stream=True)
    times_ms = [1000 * answer.first_s for answer in answers]
    return {"p50 ms": median(times_ms), "p95 ms": percentile(times_ms, 95)}


async def in_step(plan: Plan, target: Target, session: aiohttp.ClientSession) -> Figures:
    """All streams at the pace of an engine, whose step has a chunk for each of them."""
    return await _stream_together(plan, target, session, plan.chunks, Pace(plan.interval_ms, in_step=True))


async def out_of_step(plan: Plan, target: Target, session: aiohttp.ClientSession) -> Figures:
    """The same pace, but every chunk comes alone."""
    return await _stream_together(plan, target, session, plan.chunks, Pace(plan.interval_ms))


async def one_core(plan: Plan, target: Target, session: aiohttp.ClientSession) -> Figures:
    """Every chunk comes alone, `plan.rate` of them a second, to a proxy on one core."""
    with _apart(plan, target):
        pace = Pace(1000 * plan.streams / plan.rate)
        return await _stream_together(plan, target, session, plan.chunks, pace)


async def unpaced(plan: Plan, target: Target, session: aiohttp.ClientSession) -> Figures:
    """All streams as fast as it goes, to a proxy on one core. Chunks come many at a time then."""
    with _apart(plan, target):
        return await _stream_together(plan, target, session, plan.unpaced_chunks, Pace())


async def whole(plan: Plan, target: Target, session: aiohttp.ClientSession) -> Figures:
    """Answers that are no streams, one at a time."""
    answers = await ask_together(session, target.model, _SHORT, streams=1, requests=plan.requests, stream=False)
    check(answers, _SHORT, stream=False)
    times_ms = [1000 * answer.end_s for answer in answers]
    return {"p50 ms": median(times_ms), "p95 ms": percentile(times_ms, 95)}


async def whole_together(plan: Plan, target: Target, session: aiohttp.ClientSession) -> Figures:
    """The same, from all streams at once."""
    n_streams, n_requests = plan.streams, plan.requests
    answers, wall_s, cpu_s = await _timed(
        target,
        lambda: ask_together(session, target.model, _SHORT, streams=n_streams, requests=n_requests, stream=False),
    )
    check(answers, _SHORT, stream=False)
    return {"requests/s": len(answers) / wall_s} | _cost("CPU ms/request", 1e3 * cpu_s / len(answers), target)


MEASURES: Final[dict[str, Measure]] = {
    "first chunk": first_chunk,
    "in step": in_step,
    "out of step": out_of_step,
    "one core": one_core,
    "unpaced": unpaced,
    "whole": whole,
    "whole together": whole_together,
}


def _apart(plan: Plan, target: Target) -> AbstractContextManager[None]:
    """A proxy on one core, client and upstream on the others."""
    of_proxy, others = processes.cores_apart()
    cores = {psutil.Process(): others, processes.listening_at(plan.targets[0].url): others}
    if target.name != DIRECT:
        cores[processes.listening_at(target.url)] = of_proxy
    return processes.pinned(cores)


async def _stream_together(
    plan: Plan, target: Target, session: aiohttp.ClientSession, n_chunks: int, pace: Pace
) -> Figures:
    await set_pace(plan.targets[0], pace)
    try:
        answers, wall_s, cpu_s = await _timed(
            target, lambda: ask_together(session, target.model, n_chunks, streams=plan.streams, stream=True)
        )
    finally:
        await set_pace(plan.targets[0], Pace())
    check(answers, n_chunks, stream=True)
    n_all = n_chunks * plan.streams
    return (
        {"chunks/s": n_all / wall_s}
        | _cost("CPU us/chunk", 1e6 * cpu_s / n_all, target)
        | _cost("cores", cpu_s / wall_s, target)
    )


async def _timed(target: Target, asking: Callable[[], Awaitable[list[Answer]]]) -> tuple[list[Answer], float, float]:
    """With the seconds it took, and the seconds of processor time that the target took meanwhile."""
    server = processes.listening_at(target.url)
    cpu_before, started = processes.cpu_s(server), time.perf_counter()
    answers = await asking()
    return answers, time.perf_counter() - started, processes.cpu_s(server) - cpu_before


def _cost(name: str, value: float, target: Target) -> Figures:
    """Of a proxy; the upstream's own is not looked for."""
    return {} if target.name == DIRECT else {name: value}


async def set_pace(target: Target, pace: Pace) -> None:
    async with connect(target) as session:
        await session.post("/pace", json=asdict(pace), raise_for_status=True)


async def run(plan: Plan, measures: Sequence[str]) -> list[Sample]:
    """Raises `RuntimeError` for an answer that is not the upstream's, `aiohttp.ClientError`, `LookupError`."""
    for target in plan.targets:
        async with connect(target) as session:
            await _wait_ready(target, session)
            answers = await ask_together(session, target.model, _SHORT, streams=plan.streams, requests=5, stream=True)
            check(answers, _SHORT, stream=True)
    samples = []
    for name in measures:
        for turn in range(plan.repeat):
            for target in plan.targets:
                async with connect(target) as session:
                    figures = await MEASURES[name](plan, target, session)
                samples.append(Sample(name, target.name, turn, figures))
                told = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
                print(f"{name}, repetition {turn + 1}, {target.name}: {told}", file=sys.stderr, flush=True)
    return samples


async def _wait_ready(target: Target, session: aiohttp.ClientSession) -> None:
    """Until it answers at all. Raises `RuntimeError` where it does not in time."""
    problem: Exception | None = None
    try:
        async with asyncio.timeout(_START_LIMIT_S):
            while True:
                try:
                    await ask(session, target.model, 1, stream=False)
                except (RuntimeError, aiohttp.ClientError) as error:
                    problem = error
                else:
                    return
                await asyncio.sleep(_START_POLL_S)
    except TimeoutError:
        raise RuntimeError(f"{target.name} is not ready after {_START_LIMIT_S:g} s: {problem}") from problem


def setting(plan: Plan) -> dict[str, object]:
    """For the report: everything but keys."""
    numbers = {name: value for name, value in asdict(plan).items() if name != "targets"}
    return {**numbers, "targets": {target.name: target.url for target in plan.targets}}


def parse_proxy(text: str) -> Target:
    """`NAME=URL[,key=..][,model=..]`."""
    address, *options = text.split(",")
    name, _, url = address.partition("=")
    given = {key: value for key, _, value in (option.partition("=") for option in options)}
    if not name or name == DIRECT or not url.startswith("http://") or given.keys() - {"key", "model"}:
        raise argparse.ArgumentTypeError(f"not NAME=URL[,key=..][,model=..]: {text}")
    return Target(name, url, given.get("model", story.MODEL), given.get("key"))


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[Plan, list[str], Path | None]:
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=CAVEAT)
    parser.add_argument("--upstream", required=True, metavar="URL", help="of bench.upstream")
    parser.add_argument("--proxy", type=parse_proxy, action="append", required=True, metavar="NAME=URL[,key=..]")
    parser.add_argument("--measure", choices=MEASURES, action="append", help="all unless given; may be repeated")
    parser.add_argument("--repeat", type=int, default=5, help="how often each target is measured")
    parser.add_argument("--requests", type=int, default=50, help="of one stream in a repetition")
    parser.add_argument("--streams", type=int, default=16, help="at the same time")
    parser.add_argument("--chunks", type=int, default=2000, help="of each stream where it is paced")
    parser.add_argument("--unpaced-chunks", type=int, default=5000, help="where it is not")
    parser.add_argument("--interval-ms", type=float, default=10.0, help="between chunks of a stream")
    parser.add_argument("--rate", type=float, default=10_000.0, help="chunks/s that are offered on one core")
    parser.add_argument("--out", type=Path, help="JSON file with every repetition's figures")
    given = parser.parse_args(argv)
    direct = Target(DIRECT, given.upstream, story.MODEL)
    if len({target.name for target in given.proxy}) < len(given.proxy):
        parser.error("two proxies have the same name")
    plan = Plan(
        targets=(direct, *given.proxy),
        repeat=given.repeat,
        requests=given.requests,
        streams=given.streams,
        chunks=given.chunks,
        unpaced_chunks=given.unpaced_chunks,
        interval_ms=given.interval_ms,
        rate=given.rate,
    )
    return plan, given.measure or list(MEASURES), given.out


def main() -> int:
    plan, measures, out = parse_arguments()
    try:
        samples = asyncio.run(run(plan, measures))
    except (RuntimeError, LookupError, aiohttp.ClientError, psutil.Error) as error:
        print(f"bench.overhead: {error}", file=sys.stderr)
        return 1
    if out is not None:
        out.write_bytes(orjson.dumps(report(setting(plan), samples), option=orjson.OPT_INDENT_2))
    print(f"{table(samples)}\n\n{CAVEAT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
