"""A whole attack: warm up, send, wait until nothing runs, and say what is amiss."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.hostile import pace
from tests.hostile.bodies import BODIES, LARGE_BODIES
from tests.hostile.case import Case, Generator
from tests.hostile.client import Outcome, drive, mixed
from tests.hostile.healthy import Healthy
from tests.hostile.http_forms import HTTP_FORMS, UNHURRIED_FORMS, host
from tests.hostile.target import Target, Vitals

N_PARTS: Final = 10
MOST_NEW_FILES: Final = 8
MOST_NEW_BYTES: Final = 24 << 20
"""What is made once may come later than the warm-up; a leak of 1 KiB in each of 100,000 requests is four times that."""

Tell = Callable[[str], None]


@dataclass(slots=True)
class Report:
    outcome: Outcome
    before: Vitals
    after: Vitals
    elapsed_s: float
    problems: list[str] = field(default_factory=list)

    def table(self) -> str:
        kinds = sorted({kind for kind, _ in self.outcome.statuses})
        lines = []
        for kind in kinds:
            counted = {status: n for (of, status), n in sorted(self.outcome.statuses.items()) if of == kind}
            names = {0: "closed", -1: "left"}
            said = ", ".join(f"{names.get(status, status)}: {n}" for status, n in counted.items())
            lines.append(f"{kind:<16} {sum(counted.values()):>7}   {said}")
        return "\n".join(lines)


async def attack(
    target: Target, n_requests: int, seed: int, *, n_warm_up: int, concurrency: int, tell: Tell = lambda _: None
) -> Report:
    """`n_warm_up` requests of the same kinds come first, so that what is made once is there when memory is read."""
    healthy = await target.healthy()

    async def send(n: int, seed: int, outcome: Outcome) -> None:
        cases = _cases(target, healthy, n, seed)
        n_told = len(outcome.complaints)
        await drive(target.port, cases, outcome, concurrency=concurrency, limit_s=target.limit_s)
        for complaint in outcome.complaints[n_told:]:
            tell(complaint)

    warming = Outcome()
    await send(n_warm_up, seed + 1, warming)
    before = await target.becomes_idle()
    tell(f"before: {before}")
    outcome = Outcome()
    began = time.monotonic()
    for part in range(N_PARTS):
        await send(n_requests // N_PARTS, seed + 2 + part, outcome)
        tell(f"{outcome.n_sent} sent, {outcome.n_complaints} complaints, {target.vitals()}")
    after = await target.becomes_idle()
    report = Report(outcome, before, after, time.monotonic() - began, [*warming.complaints, *outcome.complaints])
    report.problems += _leaks(before, after) + target.problems_on_disk()
    return report


def _cases(target: Target, healthy: Healthy, n: int, seed: int) -> Iterator[Case]:
    groups: list[tuple[float, tuple[Generator, ...]]] = [
        (30, (healthy.generate,)),
        (40, BODIES),
    ]
    if target.is_gateway:
        groups += [(1, LARGE_BODIES), (20, HTTP_FORMS), (1, (host,)), (7, pace.QUICK), (1, pace.SLOW)]
    else:
        groups += [(10, UNHURRIED_FORMS), (7, pace.QUICK)]
    return mixed(n, random.Random(seed), groups)


def _leaks(before: Vitals, after: Vitals) -> list[str]:
    problems = []
    if after.n_files > before.n_files + MOST_NEW_FILES:
        problems.append(f"files were left open: {before.n_files} before, {after.n_files} after")
    if after.rss_bytes > before.rss_bytes + MOST_NEW_BYTES:
        grown = (after.rss_bytes - before.rss_bytes) / 2**20
        problems.append(f"memory grew by {grown:.1f} MiB")
    return problems
