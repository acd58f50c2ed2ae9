"""What the gateway's process holds: memory, descriptors, threads, tasks, children."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import linear_regression, median
from typing import Final

import psutil

from tests.soak.program import Program

_EVERY_S: Final = 2.0
_TENTH: Final = 10


@dataclass(frozen=True, slots=True)
class Vitals:
    """`at_s` of the event loop's clock; `cpu_s` since the start; of the gateway's process alone, not of its engines."""

    at_s: float
    rss_bytes: int
    n_fds: int
    n_threads: int
    n_tasks: int
    n_children: int
    cpu_s: float


def read(program: Program, at_s: float) -> Vitals:
    process = psutil.Process(program.process.pid)
    with process.oneshot():
        times = process.cpu_times()
        return Vitals(
            at_s=at_s,
            rss_bytes=process.memory_info().rss,
            n_fds=process.num_fds(),
            n_threads=process.num_threads(),
            n_tasks=int(program.tasks_file.read_text()),
            n_children=len(process.children(recursive=True)),
            cpu_s=times.user + times.system,
        )


async def sample(program: Program, until: float) -> list[Vitals]:
    clock, samples = asyncio.get_running_loop().time, list[Vitals]()
    while clock() < until:
        samples.append(read(program, clock()))
        await asyncio.sleep(_EVERY_S)
    return samples


@dataclass(frozen=True, slots=True)
class Trend:
    """Of one quantity: medians of the first and the last tenth of the samples, and the slope of the rest by hour."""

    first: float
    last: float
    per_hour: float

    @property
    def growth(self) -> float:
        return self.last - self.first


def trends(samples: Sequence[Vitals]) -> dict[str, Trend]:
    """By name of the quantity. The slope leaves out the first third, in which caches fill."""
    n = max(1, len(samples) // _TENTH)
    found = {}
    for name in ("rss_bytes", "n_fds", "n_threads", "n_tasks", "n_children"):
        values = [float(asdict(one)[name]) for one in samples]
        found[name] = Trend(median(values[:n]), median(values[-n:]), _slope(samples, values))
    return found


def _slope(samples: Sequence[Vitals], values: Sequence[float]) -> float:
    begin = len(samples) // 3
    times = [one.at_s / 3600 for one in samples[begin:]]
    return linear_regression(times, values[begin:]).slope if len(times) > 1 else 0.0
