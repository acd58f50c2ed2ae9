"""How many times one measurement is another, and how sure that is: a bootstrap over the repetitions.

A percentile interval over few values is too narrow. It is widened as Hesterberg does ("What Teachers Should Know About
the Bootstrap", 2015: the expanded percentile interval), which makes up for the lost degree of freedom and for
Student's t in place of the normal distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEAST: Final = 4
"""With three values on each side, no order of the six has a probability below 5 %: nothing can be shown."""
LEVEL: Final = 0.95
_RESAMPLES: Final = 20_000


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of the means; `interval` is None where there are fewer than `LEAST` repetitions."""

    value: float
    interval: Interval | None

    @property
    def shows_difference(self) -> bool:
        return self.interval is not None and not self.interval.low <= 1 <= self.interval.high


def ratio(over: Sequence[float], under: Sequence[float], *, paired: bool, seed: int = 0) -> Ratio | None:
    """None where a value is missing or negative, or one of `under` is 0.

    `paired`: the n-th of both were measured in turns. Raises `ValueError` for pairs of different number.
    """
    if not over or not under or min(over) < 0 or min(under) <= 0:
        return None
    if paired and len(over) != len(under):
        raise ValueError("pairs are of the same number")
    above, below = np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64)
    value = float(above.mean() / below.mean())
    n = min(len(over), len(under))
    if n < LEAST:
        return Ratio(value, None)
    generator = np.random.default_rng(seed)
    drawn = _drawn(len(over), generator)
    drawn_below = drawn if paired else _drawn(len(under), generator)
    ratios = above[drawn].mean(axis=1) / below[drawn_below].mean(axis=1)
    tail = _tail(n)
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Ratio(value, Interval(float(low), float(high)))


def _drawn(n: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """int64[_RESAMPLES, n]: as many indexes as there are, with replacement."""
    return generator.integers(0, n, size=(_RESAMPLES, n))


def _tail(n: int) -> float:
    """The share of the bootstrap distribution that is left out at each end."""
    return NormalDist().cdf(-math.sqrt(n / (n - 1)) * student_t((1 + LEVEL) / 2, n - 1))


def student_t(share: float, degrees: int) -> float:
    """Quantile of Student's t from 3 degrees of freedom on, within 0.2 %: Abramowitz and Stegun, 26.7.5."""
    x = NormalDist().inv_cdf(share)
    terms = (
        x,
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return float(sum(term / degrees**power for power, term in enumerate(terms)))
