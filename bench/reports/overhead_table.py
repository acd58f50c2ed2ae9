"""What the samples of `bench.overhead` come to: medians with their spread, and what each proxy adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Final

DIRECT: Final = "direct"
CAVEAT: Final = (
    "A figure is the median over the repetitions, with the least and the most. `added` is a proxy's figure less that "
    "of the upstream without a proxy in the same repetition. `cores` is processor time per second."
)
_ADDED: Final = " ms"


@dataclass(frozen=True, slots=True)
class Sample:
    """One repetition of one measure with one target; figures by their name and unit."""

    measure: str
    target: str
    repetition: int
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Spread:
    middle: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{_short(self.middle)} ({_short(self.least)} to {_short(self.most)})"


def spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values))


def summary(samples: Sequence[Sample]) -> dict[str, dict[str, dict[str, Spread]]]:
    """By measure, target and figure."""
    direct = {(sample.measure, sample.repetition): sample.figures for sample in samples if sample.target == DIRECT}
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for sample in samples:
        of_target = values.setdefault(sample.measure, {}).setdefault(sample.target, {})
        base = direct[sample.measure, sample.repetition]
        for name, value in sample.figures.items():
            of_target.setdefault(name, []).append(value)
            if name.endswith(_ADDED) and sample.target != DIRECT:
                of_target.setdefault(f"added {name}", []).append(value - base[name])
    return {
        measure: {target: {name: spread(of) for name, of in figures.items()} for target, figures in targets.items()}
        for measure, targets in values.items()
    }


def table(samples: Sequence[Sample]) -> str:
    lines = ["| measure | target | figures: median (least to most) |", "| --- | --- | --- |"]
    for measure, targets in summary(samples).items():
        for target, figures in targets.items():
            told = "; ".join(f"{name} {value}" for name, value in figures.items())
            lines.append(f"| {measure} | {target} | {told} |")
    return "\n".join(lines)


def report(setting: Mapping[str, object], samples: Sequence[Sample]) -> dict[str, object]:
    """For `--out`."""
    return {"caveat": CAVEAT, "setting": setting, "summary": summary(samples), "runs": [asdict(s) for s in samples]}


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
