"""Which engine first: goodput decides, then the time to the first token, then tokens a second.

Two engines within `EQUAL` of each other in one figure are told apart by the next. Those that need more memory than
there is come after those that fit, and those with failed requests come last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, geometric_mean
from typing import Final

from bench.records.quantity import quantity
from bench.records.rows import Row, spread
from bench.verdicts.candidates import Candidate

EQUAL: Final = 0.05
_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Score:
    """Over the rows that all engines of a group have. None: not all of them were measured for it.

    `goodput` is the mean of the shares of the best engine's goodput in each row; the others are geometric means.
    """

    n_rows: int
    goodput: float | None
    ttft_s_p95: float | None
    output_tok_per_s: float | None


@dataclass(frozen=True, slots=True)
class Placed:
    candidate: Candidate
    reason: str


def order(candidates: Sequence[Candidate]) -> list[Placed]:
    groups = (
        [of for of in candidates if not of.n_errors and of.fits],
        [of for of in candidates if not of.n_errors and not of.fits],
        [of for of in candidates if of.n_errors],
    )
    placed = []
    for group in groups:
        scores = _scores(group)
        chain = _chain(group, scores)
        for index, candidate in enumerate(chain):
            after = chain[index + 1] if index + 1 < len(chain) else None
            placed.append(Placed(candidate, _reason(candidate, scores, after)))
    return placed


def _scores(group: Sequence[Candidate]) -> dict[str, Score]:
    shared = [row for row in (group[0].runs if group else ()) if all(row in of.runs for of in group)]
    goodput = _medians(group, shared, "goodput_per_s")
    best = {row: max(of_candidate[row] for of_candidate in goodput.values()) for row in shared} if goodput else {}
    counted = [row for row in best if best[row] > 0]
    ttft, speed = (_medians(group, shared, name) for name in ("ttft_s_p95", "output_tok_per_s"))
    return {
        of.name: Score(
            n_rows=len(shared),
            goodput=fmean(goodput[of.name][row] / best[row] for row in counted) if counted else None,
            ttft_s_p95=_mean(ttft.get(of.name, {}).values()),
            output_tok_per_s=_mean(speed.get(of.name, {}).values()),
        )
        for of in group
    }


def _medians(group: Sequence[Candidate], shared: Sequence[Row], figure: str) -> Mapping[str, Mapping[Row, float]]:
    """By candidate and row; empty unless every candidate has the figure in every row."""
    found: dict[str, dict[Row, float]] = {}
    for of in group:
        for row in shared:
            told = spread(of.runs[row], figure)
            if told is None:
                return {}
            found.setdefault(of.name, {})[row] = told.middle
    return found


def _mean(values: Iterable[float]) -> float | None:
    told = list(values)
    return geometric_mean(told) if told and min(told) > 0 else None


def _is_behind(value: float, best: float, *, lower_is_better: bool = False) -> bool:
    return value > best * (1 + EQUAL) if lower_is_better else value < best * (1 - EQUAL)


_CRITERIA: Final[tuple[tuple[str, Callable[[Score], float | None], bool], ...]] = (
    ("goodput", lambda score: score.goodput, False),
    ("time to first token", lambda score: score.ttft_s_p95, True),
    ("tokens a second", lambda score: score.output_tok_per_s, False),
)


def _chain(group: Sequence[Candidate], scores: Mapping[str, Score]) -> list[Candidate]:
    """The best of those that are left, again and again. What nothing tells apart stays in the order of the results."""
    left, chain = list(group), []
    while left:
        best = left
        for _, value_of, lower in _CRITERIA:
            told = [(of, value) for of in best if (value := value_of(scores[of.name])) is not None]
            if len(told) == len(best):
                top = (min if lower else max)(value for _, value in told)
                best = [of for of, value in told if not _is_behind(value, top, lower_is_better=lower)]
        chain.append(best[0])
        left.remove(best[0])
    return chain


def _reason(candidate: Candidate, scores: Mapping[str, Score], after: Candidate | None) -> str:
    parts = [*_figures(scores[candidate.name], is_compared=len(scores) > 1), *_memory(candidate)]
    if candidate.n_errors:
        kinds = ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in candidate.error_kinds.items() if count)
        parts.insert(0, f"last, since {candidate.n_errors} requests failed{f' ({kinds})' if kinds else ''}")
    elif not candidate.fits:
        parts.insert(0, "after those that fit, since it needs more memory than there is")
    if after is not None:
        parts.append(_advantage(candidate.name, after.name, scores))
    return "; ".join(parts)


def _figures(score: Score, *, is_compared: bool) -> list[str]:
    told = []
    if score.goodput is not None and is_compared:
        told.append(f"{score.goodput:.0%} of the best engine's goodput")
    if score.ttft_s_p95 is not None:
        told.append(f"first token within {quantity('ttft_s_p95').text(score.ttft_s_p95)} s (p95)")
    if score.output_tok_per_s is not None:
        told.append(f"{quantity('output_tok_per_s').text(score.output_tok_per_s)} tok/s")
    rows = "1 row" if score.n_rows == 1 else f"{score.n_rows} rows"
    return [f"{', '.join(told)} over {rows}"] if told else ["no figures that could be compared"]


def _memory(candidate: Candidate) -> list[str]:
    peak, limit = candidate.gpu_peak_bytes, candidate.memory_limit_bytes
    if candidate.target.card is None:
        return ["computes on the processor"]
    if peak is None:
        return []
    return [f"{peak / _GIB:.1f} GiB at most{f' of {limit / _GIB:.1f}' if limit else ''}"]


def _advantage(name: str, other: str, scores: Mapping[str, Score]) -> str:
    for what, value_of, lower in _CRITERIA:
        mine, theirs = value_of(scores[name]), value_of(scores[other])
        if mine is not None and theirs is not None and _is_behind(theirs, mine, lower_is_better=lower):
            return f"ahead of {other} by {what}"
    return f"nothing measured sets it apart from {other}"
