"""The same attacks as `make test-hostile`, fewer of them."""

from __future__ import annotations

from pathlib import Path

from tests.hostile.attack import attack
from tests.hostile.target import gateway


async def test_hostile_clients_break_nothing_and_healthy_ones_are_all_answered(tmp_path: Path) -> None:
    with gateway(tmp_path) as target:
        report = await attack(target, 1200, seed=6, n_warm_up=200, concurrency=48)
    assert not report.problems, "\n".join(report.problems)
    assert report.outcome.statuses["healthy", 200] > 300
