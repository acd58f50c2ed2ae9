"""What the samples of `bench.worker_table` come to: a median of each figure, and its ratio to the first target's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Final

from bench.side_by_side import CAVEAT

LIMIT: Final = "llama-batched-bench"
TOTAL: Final = "total tok/s"


@dataclass(frozen=True, slots=True)
class Sample:
    """One repetition of one row with one target; figures by their name and unit."""

    part: str
    row: str
    target: str
    repetition: int
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Line:
    """`ratio` is that to the row's first target; None where it has no such figure, or none other than 0."""

    part: str
    row: str
    figure: str
    target: str
    middle: float
    least: float
    most: float
    ratio: float | None


def lines(samples: Sequence[Sample]) -> list[Line]:
    """By part, row and figure, in the order of the samples; a repetition without the figure does not count."""
    values: dict[tuple[str, str, str], dict[str, dict[int, float]]] = {}
    for sample in samples:
        for figure, value in sample.figures.items():
            of_figure = values.setdefault((sample.part, sample.row, figure), {})
            of_figure.setdefault(sample.target, {})[sample.repetition] = value
    _relate_to_limit(values)
    firsts: dict[tuple[str, str], str] = {}
    for sample in samples:
        firsts.setdefault((sample.part, sample.row), sample.target)
    found = []
    for (part, row, figure), targets in values.items():
        base = targets.get(firsts[part, row], {})
        for target, of_target in targets.items():
            all_values = list(of_target.values())
            ratio = _ratio(of_target, base)
            found.append(Line(part, row, figure, target, median(all_values), min(all_values), max(all_values), ratio))
    return found


def _relate_to_limit(values: dict[tuple[str, str, str], dict[str, dict[int, float]]]) -> None:
    """Where the library's limit was measured, each target's share of it in the same repetition is a figure too."""
    for (part, row, figure), targets in list(values.items()):
        limit = targets.get(LIMIT)
        if figure != TOTAL or limit is None:
            continue
        values[part, row, f"of {LIMIT}"] = {
            target: {turn: value / limit[turn] for turn, value in of_target.items() if limit.get(turn)}
            for target, of_target in targets.items()
            if target != LIMIT
        }


def _ratio(values: Mapping[int, float], base: Mapping[int, float]) -> float | None:
    ratios = [value / base[turn] for turn, value in values.items() if base.get(turn)]
    return median(ratios) if ratios else None


def table(samples: Sequence[Sample]) -> str:
    rows = ["| part | row | figure | target | median (least to most) | ratio |", "| --- " * 6 + "|"]
    for line in lines(samples):
        spread = f"{_short(line.middle)} ({_short(line.least)} to {_short(line.most)})"
        ratio = "–" if line.ratio is None else f"{line.ratio:.2f}"
        rows.append(f"| {line.part} | {line.row} | {line.figure} | {line.target} | {spread} | {ratio} |")
    return "\n".join(rows)


def report(samples: Sequence[Sample]) -> dict[str, object]:
    """For `--out`."""
    return {
        "caveat": CAVEAT,
        "summary": [asdict(line) for line in lines(samples)],
        "runs": [asdict(sample) for sample in samples],
    }


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
