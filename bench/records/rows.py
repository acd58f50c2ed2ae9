"""A result's runs, put together by what they repeat: the same workload under the same load."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.records.quantity import quantity
from bench.records.record import ClosedLoad, OpenLoad, Report, Run


@dataclass(frozen=True, slots=True)
class Row:
    workload: str
    load: ClosedLoad | OpenLoad

    @property
    def text(self) -> str:
        return f"{printable(self.workload)}, {load_text(self.load)}"


@dataclass(frozen=True, slots=True)
class Spread:
    middle: float
    least: float
    most: float


def load_text(load: ClosedLoad | OpenLoad) -> str:
    if isinstance(load, OpenLoad):
        return f"{load.rate_per_s:g} requests/s"
    return f"{load.streams} stream{'s' if load.streams != 1 else ''}"


def load_size(load: ClosedLoad | OpenLoad) -> float:
    return load.rate_per_s if isinstance(load, OpenLoad) else load.streams


def rows(report: Report) -> dict[Row, dict[str, tuple[Run, ...]]]:
    """By row and target's name. Workloads and targets are in the report's order, closed loads before open ones."""
    order = {workload.name: index for index, workload in enumerate(report.workloads)}
    found: dict[Row, dict[str, list[Run]]] = {}
    for run in report.runs:
        found.setdefault(Row(run.workload, run.load), {}).setdefault(run.target, []).append(run)
    ordered = sorted(found, key=lambda row: (order[row.workload], row.load.kind, load_size(row.load)))
    return {
        row: {target.name: _in_turn(found[row][target.name]) for target in report.targets if target.name in found[row]}
        for row in ordered
    }


def _in_turn(runs: Iterable[Run]) -> tuple[Run, ...]:
    return tuple(sorted(runs, key=lambda run: run.repetition))


def values(runs: Sequence[Run], figure: str) -> list[float]:
    """Of the repetitions that have it."""
    return [run.figures[figure] for run in runs if figure in run.figures]


def spread(runs: Sequence[Run], figure: str) -> Spread | None:
    """None where no repetition has the figure."""
    found = values(runs, figure)
    return Spread(median(found), min(found), max(found)) if found else None


def spread_text(runs: Sequence[Run], figure: str) -> str:
    found = spread(runs, figure)
    if found is None:
        return "–"
    text = quantity(figure).text
    if text(found.least) == text(found.most):
        return text(found.middle)
    return f"{text(found.middle)} ({text(found.least)} to {text(found.most)})"


def error_kinds(runs: Iterable[Run]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for run in runs:
        for kind, count in run.error_kinds.items():
            counts[kind] = counts.get(kind, 0) + count
    return counts


def n_errors(runs: Iterable[Run]) -> int:
    """The more of what the figure says and of what the kinds add up to."""
    return sum(int(max(run.figures.get("errors", 0), sum(run.error_kinds.values()))) for run in runs)


def printable(text: str) -> str:
    """A name from a file, safe to print: neither control characters nor such as turn the text around."""
    return "".join("�" if unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") else sign for sign in text)
