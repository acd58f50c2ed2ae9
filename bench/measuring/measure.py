"""One run: a target under one load with one workload, and all that is told of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import aiohttp

from bench.measuring.drive import Sleep, drive, people_of
from bench.measuring.figures import LatencyTarget, figures
from bench.measuring.load import Clock, Request, Target
from bench.measuring.probes import Probes, Watch, watching
from bench.measuring.steps import Steps, decode_share, read_steps
from bench.records.record import Load, MemorySample, PowerSample, Predicted, Run, gap_histogram
from bench.workloads.scenario import Scenario

NOTHING: Final = Probes()
LATENCY: Final = LatencyTarget()
_STEPS_LIMIT_S: Final = 30.0


async def measure(
    target: Target,
    workload: Scenario,
    load: Load,
    probes: Probes = NOTHING,
    *,
    people: int,
    seed: str,
    repetition: int = 0,
    latency: LatencyTarget = LATENCY,
    predicted: Mapping[str, Predicted] | None = None,
    on_answer: Callable[[Request], None] = lambda request: None,
    clock: Clock = time.perf_counter,
    sleep: Sleep = asyncio.sleep,
) -> Run:
    """`people` say what the workload makes them say from `seed`: targets that are compared get the same seed.

    A seed that a target has seen may have its prefixes in a cache. `on_answer` is called as requests end.
    `client_cpu_share` near 1 says that this program was the limit, and not the server. What fails is in the figures;
    raised are only the errors of `bench.measuring.probes.watching`.
    """
    everybody = people_of(workload, seed, people)
    before, cpu = await _steps(target), _CpuShare()
    with watching(probes) as watch:
        await drive(target, workload, load, everybody, seed=seed, on_answer=on_answer, clock=clock, sleep=sleep)
    found = {"client_cpu_share": cpu.share()}
    if (share := decode_share(before, await _steps(target))) is not None:
        found["decode_share"] = share
    requests = [turn for person in everybody for turn in person.turns]
    _check(requests, workload)
    found |= figures(requests, workload.max_tokens, latency)
    return Run(
        target=target.name,
        workload=workload.name,
        load=load,
        repetition=repetition,
        figures=found | watch.figures(found["output_tok"]),
        error_kinds=dict(Counter(request.error_kind for request in requests if request.error is not None)),
        gaps=gap_histogram(gap for request in requests if request.error is None for gap in request.gaps_s),
        memory=tuple(_memory(watch)),
        power=tuple(PowerSample(look.t_s, look.power_w) for look in watch.looks if look.power_w is not None),
        predicted=predicted or {},
    )


class _CpuShare:
    """Of one core, since it was made, what this process has used."""

    def __init__(self) -> None:
        self._start_s, self._start_cpu_s = time.perf_counter(), time.process_time()

    def share(self) -> float:
        return (time.process_time() - self._start_cpu_s) / (time.perf_counter() - self._start_s)


async def _steps(target: Target) -> Steps | None:
    """None also where the server does not answer, which the requests will tell."""
    try:
        async with asyncio.timeout(_STEPS_LIMIT_S):
            return await read_steps(target)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None


def _check(requests: Sequence[Request], workload: Scenario) -> None:
    for request in requests:
        if request.error is None and (wrong := workload.check(request)) is not None:
            request.fail("wrong_answer", wrong)


def _memory(watch: Watch) -> Iterator[MemorySample]:
    for look in watch.looks:
        gpu_bytes = watch.gpu_bytes(look)
        if look.rss_bytes or gpu_bytes:
            yield MemorySample(look.t_s, look.rss_bytes or None, gpu_bytes or None)
