"""The llama.cpp worker beside llama-server, part by part, in interleaved repetitions.

    python -m bench.peers build --work DIR      # once: llama-server and llama-batched-bench
    python -m bench.worker_table --work DIR --model FILE --out table.json
    python -m bench.worker_table --part shared --target a=URL --target b=unix:PATH    # servers that run already

Both servers of a part are started with the same threads, sequences and context. What the parts ask for is in
`bench.worker.parts`; a ratio is the median, over the repetitions, of a target's figure to the first target's.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import aiohttp
import orjson

from bench.measuring.load import Target, Workload, first_model
from bench.peers import PORTS, Setting
from bench.servers.launch import Server, running
from bench.servers.peer_builds import PeerBuilds
from bench.side_by_side import CAVEAT, parse_target, warm_up
from bench.worker import batched_bench
from bench.worker.batched_bench import Shape
from bench.worker.parts import PARTS, Part, Turn
from bench.worker.report import LIMIT, TOTAL, Sample, report, table

_WORKER_PORT: Final = 18084
_LOOKUP_PORT: Final = 18085


@dataclass(frozen=True, slots=True)
class Plan:
    """Without `targets`, each part's servers are started from `work` and `model`."""

    parts: tuple[str, ...]
    targets: tuple[Target, ...]
    repeat: int
    seed: str
    work: Path
    model: Path
    threads: int
    worker_args: tuple[str, ...]

    def servers(self, name: str) -> list[Server]:
        """Of one part; llama-server comes first, except where the worker is compared with itself."""
        part = PARTS[name]
        setting = Setting(PeerBuilds(self.work), self.model, part.n_parallel, self.threads, part.n_ctx_seq)
        peer = "llama-server"
        server = Server(_target(peer, PORTS[peer]), setting.argv(peer, PORTS[peer]))
        worker = Server(_target("worker", _WORKER_PORT), self._worker(part, _WORKER_PORT))
        if name != "rewrite":
            return [server, worker]
        lookup = self._worker(part, _LOOKUP_PORT, "--speculation", "lookup")
        return [worker, Server(_target("worker with lookup", _LOOKUP_PORT), lookup), server]

    def _worker(self, part: Part, port: int, *more: str) -> list[str]:
        line = [sys.executable, "-m", "backends.llamacpp", "--model", str(self.model), "--port", str(port)]
        line += ["--threads", str(self.threads), "--n-parallel", str(part.n_parallel)]
        return [*line, "--n-ctx", str(part.n_ctx_seq), *more, *self.worker_args]


def _target(name: str, port: int) -> Target:
    return Target(name, f"http://127.0.0.1:{port}", "", extra_fields={"ignore_eos": True})


async def run(plan: Plan, samples: list[Sample]) -> None:
    """Adds to `samples` as it goes on, so that what was measured is there however it ends.

    Raises `RuntimeError` for a server that does not come up or fails its warm-up, `aiohttp.ClientError`.
    """
    for name in plan.parts:
        servers = [] if plan.targets else plan.servers(name)
        async with running(servers, plan.work) if servers else nullcontext():
            targets = [await _ready(target) for target in plan.targets or [server.target for server in servers]]
            await _run_part(plan, name, targets, samples)


async def _ready(target: Target) -> Target:
    named = target if target.model else replace(target, model=await first_model(target))
    await warm_up(named, Workload(streams=1))
    return named


async def _run_part(plan: Plan, name: str, targets: Sequence[Target], samples: list[Sample]) -> None:
    for row, measure in PARTS[name].rows.items():
        for number in range(plan.repeat):
            turn = Turn(f"{plan.seed}/{name}/{row}/{number}", number, [])
            for target in targets:
                figures = await measure(target, turn)
                samples.append(_told(Sample(name, row, target.name, number, figures)))
            if name == "streams" and not plan.targets:
                samples.append(_told(await _limit(plan, row, number)))


def _told(sample: Sample) -> Sample:
    figures = ", ".join(f"{key} {value:.4g}" for key, value in sample.figures.items())
    where = f"{sample.part}, {sample.row}, repetition {sample.repetition + 1}, {sample.target}"
    print(f"{where}: {figures}", file=sys.stderr, flush=True)
    return sample


async def _limit(plan: Plan, row: str, number: int) -> Sample:
    """What the library computes for the same shape without a server, in the same repetition."""
    shape = Shape(int(row.split()[0]))
    program = PeerBuilds(plan.work).llama_batched_bench
    limit = await batched_bench.measure(program, plan.model, shape, plan.threads)
    return Sample("streams", row, LIMIT, number, {TOTAL: limit.total_per_s})


async def _run_until_sigterm(plan: Plan, samples: list[Sample]) -> None:
    """SIGTERM cancels it, so that no server outlives the measurement."""
    measuring = asyncio.create_task(run(plan, samples))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, measuring.cancel)
    await measuring


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[Plan, Path | None]:
    parser = argparse.ArgumentParser(prog="python -m bench.worker_table", description=CAVEAT)
    parser.add_argument("--part", choices=PARTS, action="append", help="all unless given; may be repeated")
    parser.add_argument(
        "--target", type=parse_target, action="append", metavar="NAME=URL[,..]", help="that runs already"
    )
    parser.add_argument("--work", type=Path, help="of bench.peers; logs of the servers go there")
    parser.add_argument("--model", type=Path, help="GGUF file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seed", default=str(int(time.time())), help="of the prompts; new each time")
    parser.add_argument("--worker-arg", action="append", default=[], help="for the worker alone; may be repeated")
    parser.add_argument("--out", type=Path, help="JSON file with every repetition's figures")
    given = parser.parse_args(argv)
    if not given.target and (given.work is None or given.model is None):
        parser.error("give --work and --model, or the targets")
    plan = Plan(
        parts=tuple(given.part or PARTS),
        targets=tuple(given.target or ()),
        repeat=given.repeat,
        seed=given.seed,
        work=given.work or Path(),
        model=given.model or Path(),
        threads=given.threads,
        worker_args=tuple(given.worker_arg),
    )
    return plan, given.out


def main() -> int:
    plan, out = parse_arguments()
    samples: list[Sample] = []
    problem: BaseException | None = None
    try:
        asyncio.run(_run_until_sigterm(plan, samples))
    except (RuntimeError, OSError, aiohttp.ClientError, subprocess.TimeoutExpired, asyncio.CancelledError) as error:
        problem = error
        print(f"bench.worker_table: {str(error) or 'ended before its time'}", file=sys.stderr)
    if out is not None:
        out.write_bytes(orjson.dumps(report(samples), option=orjson.OPT_INDENT_2))
    print(f"{table(samples)}\n\n{CAVEAT}")
    return 1 if problem is not None or any(sample.figures.get("errors") for sample in samples) else 0


if __name__ == "__main__":
    sys.exit(main())
