"""Running streams while a long prompt arrives: how long do they stand still?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from bench.measuring.load import Clock, Request, Target, connect, send, stream_body
from bench.measuring.result import percentile
from bench.workloads.prompts import prompt

_PATH: Final = "/v1/completions"


@dataclass(frozen=True, slots=True)
class Arrival:
    """The long prompt is sent once each of the `streams` has `warm_chunks` of its answer."""

    streams: int = 4
    n_prompt: int = 119
    n_long: int = 3000
    warm_chunks: int = 16
    long_tokens: int = 16
    stream_tokens: int = 900
    seed: str = "0"
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Seen:
    running: Sequence[Request]
    long: Request


async def arrive(target: Target, plan: Arrival, clock: Clock = time.perf_counter) -> Seen:
    """The running streams are left when the long prompt's answer is there."""
    running = [Request(sent_s=clock()) for _ in range(plan.streams)]
    async with connect(target) as session, asyncio.TaskGroup() as group:
        warm = [_chunks_of(request, plan.warm_chunks) for request in running]
        tasks = []
        for index, request in enumerate(running):
            body = {**stream_body(target, plan.stream_tokens), "prompt": prompt(plan.seed, index, plan.n_prompt)}
            tasks.append(group.create_task(send(session, _PATH, body, request, timeout_s=plan.timeout_s, clock=clock)))
        await _first_of(tasks, warm)
        long = Request(sent_s=clock())
        body = {**stream_body(target, plan.long_tokens), "prompt": prompt(plan.seed, plan.streams, plan.n_long)}
        await send(session, _PATH, body, long, timeout_s=plan.timeout_s, clock=clock)
        for request, task in zip(running, tasks, strict=True):
            if task.done() and request.error is None and request.end_s < long.end_s:
                request.error = "ended before the long prompt was answered"
            task.cancel()
    return Seen(running, long)


def _chunks_of(request: Request, n_chunks: int) -> asyncio.Event:
    """Set once the request has got so many."""
    reached = asyncio.Event()

    def count() -> None:
        if len(request.chunk_s) >= n_chunks:
            reached.set()

    request.on_chunk = count
    return reached


async def _first_of(tasks: Sequence[asyncio.Task[None]], warm: Sequence[asyncio.Event]) -> None:
    """Until all streams are warm, or one has ended, which is an error by then."""
    all_warm = asyncio.create_task(_all_set(warm))
    try:
        await asyncio.wait([all_warm, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        all_warm.cancel()


async def _all_set(events: Sequence[asyncio.Event]) -> None:
    for event in events:
        await event.wait()


def figures(seen: Seen) -> Mapping[str, float]:
    """Gaps of the running streams in milliseconds; one counts as `at arrival` if any of it lies in that time."""
    errors = sum(1 for request in (*seen.running, seen.long) if request.error is not None)
    if errors or not seen.long.chunk_s:
        return {"errors": float(max(errors, 1))}
    start_s, end_s = seen.long.sent_s, seen.long.chunk_s[0]
    pairs = [pair for request in seen.running for pair in pairwise(request.chunk_s)]
    inside = [1000 * (b - a) for a, b in pairs if b > start_s and a < end_s]
    everywhere = [1000 * (b - a) for a, b in pairs]
    return {
        **_spread("gap at arrival", inside),
        **_spread("gap", everywhere),
        "TTFT of the long prompt s": seen.long.ttft_s,
        "errors": 0.0,
    }


def _spread(name: str, gaps_ms: Sequence[float]) -> dict[str, float]:
    return {
        f"{name} p50 ms": percentile(gaps_ms, 50),
        f"{name} p95 ms": percentile(gaps_ms, 95),
        f"{name} max ms": max(gaps_ms, default=0.0),
    }
