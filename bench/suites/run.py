"""`gguf-server bench run`: a suite, or the suite's questions to servers that run already.

    gguf-server bench run --suite cpu
    gguf-server bench run --target a=http://127.0.0.1:8000 --target b=http://127.0.0.1:8001,key=sk-…

Ctrl-C, SIGTERM and a closed terminal end it with what was measured so far: a whole result, and no process left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.measuring.load import Target
from bench.measuring.machine import cards_here, this_machine
from bench.records.record import RecordError, write
from bench.reports.plots import PlotsMissingError
from bench.reports.report import write_reports
from bench.servers.peer_builds import PeerBuilds
from bench.servers.recipes import Place
from bench.side_by_side import parse_target
from bench.suites.card_check import WrongMachine, check_card
from bench.suites.display import Display, showing
from bench.suites.suite import Suite, SuiteError, Url, read_suite, suite_names
from bench.suites.suite_run import Results, Setup, run_suite
from weights.cards import UnknownCard

INTERRUPTED: Final = 130
_DEFAULT_SUITE: Final = "cpu"
_SUITE_OF_TARGETS: Final = "standard"


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line asks for. `folder` gets the result, its reports, and the servers' logs."""

    suite: Suite
    folder: Path
    peers: PeerBuilds
    threads: int
    config: Path | None
    anyway: bool


def main(argv: Sequence[str] | None = None) -> int:
    """0; 1 where runs have errors; 2 where it cannot begin; 130 where it was interrupted."""
    given = _parser().parse_args(argv)
    if given.list:
        print("\n".join(f"{name:<14}{read_suite(name).title}" for name in suite_names()))
        return 0
    try:
        order = _order(given)
        note = check_card(order.suite.card, cards_here(), anyway=order.anyway)
        order.folder.mkdir(parents=True, exist_ok=True)
    except (SuiteError, WrongMachine, UnknownCard, OSError) as error:
        print(f"bench run: {error}", file=sys.stderr)
        return 2
    return carry_out(order, note)


def carry_out(order: Order, note: str | None) -> int:
    """Measures, writes, and says where."""
    results = Results(order.suite.name, this_machine())
    result_file = order.folder / "result.json"
    was_interrupted = False
    with showing() as display:
        setup = Setup(
            suite=order.suite,
            place=Place(order.folder, order.peers, order.threads, order.config),
            seed=_seed(order.suite),
            results=results,
            display=display,
            save=lambda: write(results.report(), result_file),
        )
        if note is not None:
            setup.note(note)
        try:
            asyncio.run(_until_signal(setup))
        except asyncio.CancelledError:
            was_interrupted = True
            setup.note(f"interrupted after {len(results.runs)} runs")
        except SuiteError as error:
            print(f"bench run: {error}", file=sys.stderr)
            return 2
        except (RecordError, OSError) as error:
            print(f"bench run: the result cannot be kept: {error}", file=sys.stderr)
            return 1
    _write_all(results, order.folder)
    if was_interrupted:
        return INTERRUPTED
    return 1 if any(run.error_kinds for run in results.runs) or not results.runs else 0


async def _until_signal(setup: Setup) -> None:
    """The first signal ends it; those that follow change nothing, since servers have to be ended first."""
    running = asyncio.create_task(run_suite(setup))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, _cancel_once, running, setup.display)
    await running


def _cancel_once(running: asyncio.Task[None], display: Display) -> None:
    if not running.cancelling():
        display.doing("ending the servers")
        running.cancel()


def _write_all(results: Results, folder: Path) -> None:
    report = results.report()
    result, markdown, page = (folder / name for name in ("result.json", "report.md", "report.html"))
    write(report, result)
    try:
        write_reports(report, to_markdown=markdown, to_html=page)
    except PlotsMissingError as error:
        print(f"{error}; the page has none", file=sys.stderr)
        write_reports(report, to_markdown=None, to_html=page, with_plots=False)
    print(markdown.read_text(encoding="utf-8"))
    print(f"{result}\n{markdown}\n{page}", file=sys.stderr)


def _seed(suite: Suite) -> str:
    """New each time for servers that run on: one that saw a prompt may have its beginning in a cache."""
    runs_on = any(isinstance(target, Url) for part in suite.parts for target in part.targets)
    return str(int(time.time())) if runs_on else "0"


def _order(given: argparse.Namespace) -> Order:
    """Raises `SuiteError`."""
    suite = read_suite(given.suite or (_SUITE_OF_TARGETS if given.target else _DEFAULT_SUITE))
    if given.target:
        suite = with_targets(suite, given.target)
    if given.repeat is not None:
        suite = suite.model_copy(update={"repetitions": given.repeat})
    for part in suite.parts:
        if not part.targets:
            raise SuiteError(f"suite {suite.name!r} names no servers: give --target NAME=URL")
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return Order(
        suite=suite,
        folder=given.out or Path("bench-results") / f"{suite.name}-{now}",
        peers=PeerBuilds(given.peers, given.vllm_python, given.vllm_model),
        threads=given.threads,
        config=given.config,
        anyway=given.anyway,
    )


def with_targets(suite: Suite, targets: Sequence[Target]) -> Suite:
    """The suite's first part with other targets than its own, which run already. Raises `SuiteError`."""
    if len({target.name for target in targets}) < len(targets):
        raise SuiteError("two targets have the same name")
    part = suite.parts[0]
    urls = tuple(
        Url(kind="url", name=target.name, url=target.url, key=target.key, model_id=target.model,
            end_token_ids=_end_token_ids(target))
        for target in targets
    )  # fmt: skip
    workloads = tuple(workload.model_copy(update={"targets": ()}) for workload in part.workloads)
    changed = part.model_copy(update={"targets": urls, "workloads": workloads, "together": True})
    return suite.model_copy(update={"parts": (changed,), "card": None})


def _end_token_ids(target: Target) -> tuple[int, ...]:
    bias = target.extra_fields.get("logit_bias")
    return tuple(int(token) for token in bias) if isinstance(bias, dict) else ()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gguf-server bench run", description="Measure servers that speak OpenAI's API."
    )
    add = parser.add_argument
    add("--suite", metavar="NAME|FILE.toml", help=f"by default {_DEFAULT_SUITE}, or with --target {_SUITE_OF_TARGETS}")
    add("--list", action="store_true", help="the suites there are")
    add("--target", type=parse_target, action="append", metavar="NAME=URL[,model=..][,key=..][,eos=..]",
        help="a server that runs already, in place of the suite's own; may be repeated")  # fmt: skip
    add("--out", type=Path, metavar="DIR", help="for result, reports and logs; by default a new one in bench-results")
    add("--anyway", action="store_true", help="run a card's suite on another machine")
    add("--config", type=Path, metavar="FILE", help="gguf-server's, for presets: interpreters, local weights")
    add("--repeat", type=_positive, help="repetitions, in place of the suite's")
    add("--threads", type=_positive, default=len(os.sched_getaffinity(0)), help="of the servers that are started")
    add("--peers", type=Path, default=Path("bench-peers"), metavar="DIR", help="where bench.peers has built them")
    add("--vllm-python", type=Path, metavar="FILE", help="an interpreter that has vLLM for processors")
    add("--vllm-model", type=Path, metavar="DIR", help="what that vLLM serves")
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number
