"""`python -m tests.hostile --requests 100000 --seed 1`: hostile clients, and among them healthy ones, against a server.

Exit status 1 where anything is amiss: a 5xx, a request that was not answered, a healthy one that was answered wrongly,
files or memory that were not given back, something in the log that may not be there.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.hostile.attack import Report, attack
from tests.hostile.target import gateway, worker


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--warm-up", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--target", choices=("gateway", "worker"), default="gateway")
    parser.add_argument("--folder", type=Path, help="where logs stay; by default they go")
    arguments = parser.parse_args()
    start = gateway if arguments.target == "gateway" else worker
    with tempfile.TemporaryDirectory(prefix="hostile-") as passing, start(arguments.folder or Path(passing)) as target:
        report = asyncio.run(
            attack(
                target,
                arguments.requests,
                arguments.seed,
                n_warm_up=arguments.warm_up,
                concurrency=arguments.concurrency,
                tell=lambda line: print(line, flush=True),
            )
        )
    _print(report)
    return 1 if report.problems else 0


def _print(report: Report) -> None:
    outcome = report.outcome
    print(report.table())
    print(f"{outcome.n_sent} answers and leavings in {report.elapsed_s:.0f} s")
    print(f"before: {report.before}\nafter:  {report.after}")
    for problem in report.problems:
        print(f"- {problem}")
    print(
        "nothing amiss"
        if not report.problems
        else f"{len(report.problems)} problems shown, {outcome.n_complaints} complaints"
    )


if __name__ == "__main__":
    sys.exit(main())
