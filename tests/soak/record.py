"""All that was seen in one soak, and what is to be read from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Final

from tests.soak.client import Outcome
from tests.soak.faults import Suffering
from tests.soak.operator import Health
from tests.soak.verdict import End
from tests.soak.vitals import Vitals

SETTLE_S: Final = 2.0
"""After a fault is over, those who waited through it still have to be served."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Times of the event loop's clock, in seconds."""

    name: str
    began: float
    ended: float

    def has(self, outcome: Outcome) -> bool:
        return self.began <= outcome.began <= self.ended


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds; of answers that were whole."""

    n: int
    p50_s: float | None
    p95_s: float | None


@dataclass(slots=True)
class Soak:
    """`capacity_per_s`: requests that both services answer per second, measured; `idle`: before and after the load.

    `lags_s`: how late requests were sent. `parting`: what is wrong with how the gateway ended.
    """

    seed: int
    equal_keys: bool
    capacity_per_s: float = 0.0
    answer_s: float = 0.0
    phases: list[Phase] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    sufferings: list[Suffering] = field(default_factory=list)
    healths: list[Health] = field(default_factory=list)
    vitals: list[Vitals] = field(default_factory=list)
    idle: list[Vitals] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    n_chores: dict[str, int] = field(default_factory=dict)
    chore_problems: list[str] = field(default_factory=list)
    parting: list[str] = field(default_factory=list)

    @property
    def lateness_s(self) -> float:
        """One request in a hundred was sent as late as that, or later: the machine had no time for it."""
        return quantiles(self.lags_s, n=100)[-1] if len(self.lags_s) > 1 else 0.0

    def phase(self, name: str) -> Phase:
        return next(phase for phase in self.phases if phase.name == name)

    def is_disturbed(self, service: str, began: float, ended: float, *, margin_s: float = SETTLE_S) -> bool:
        return any(one.touches(service, began, ended, margin_s=margin_s) for one in self.sufferings)

    def of(self, phase: Phase, class_name: str, *, undisturbed: bool = False) -> list[Outcome]:
        chosen = [one for one in self.outcomes if one.of == class_name and phase.has(one)]
        if undisturbed:
            chosen = [one for one in chosen if not self.is_disturbed(one.service, one.began, one.ended)]
        return chosen

    def vitals_of(self, phase: Phase) -> list[Vitals]:
        return [one for one in self.vitals if phase.began <= one.at_s <= phase.ended]


def ends(outcomes: Sequence[Outcome]) -> Counter[End]:
    return Counter(one.end for one in outcomes)


def latency(outcomes: Sequence[Outcome], of: Callable[[Outcome], float | None]) -> Latency:
    """Of the whole answers among them; no percentiles of fewer than two."""
    times = [time for one in outcomes if one.end is End.WHOLE and (time := of(one)) is not None]
    if len(times) < 2:
        return Latency(len(times), None, None)
    cuts = quantiles(times, n=20, method="inclusive")
    return Latency(len(times), cuts[9], cuts[18])


def ttft(outcome: Outcome) -> float | None:
    return outcome.ttft_s


def elapsed(outcome: Outcome) -> float:
    return outcome.elapsed_s
