"""Two results side by side: which rows they share, what became of each figure, and what else is different."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from bench.records.quantity import quantity
from bench.records.record import Report, Run, TargetRecord, WorkloadRecord
from bench.records.rows import Row, Spread, n_errors, printable, rows, spread, values
from bench.verdicts.ratio import Ratio, ratio

FIGURES: Final = ("output_tok_per_s", "goodput_per_s", "ttft_s_p50", "ttft_s_p95", "gap_s_p95", "e2e_s_p95")
Verdict = Literal[
    "faster", "slower", "less", "more", "no difference shown", "too few repetitions", "cannot be told"
]  # fmt: skip
_IGNORED_PARAMETERS: Final = frozenset({"seed"})

Pairs = Mapping[str, str]
"""A target's name in the first result by its name in the second."""


class NoMatchError(Exception):
    """There is nothing to compare; the message says why."""


@dataclass(frozen=True, slots=True)
class Difference:
    """`gain` is how many times as good the second is: of times, memory and energy the first over the second."""

    row: Row
    targets: tuple[str, str]
    figure: str
    first: Spread
    second: Spread
    repetitions: tuple[int, int]
    gain: Ratio | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Failures:
    row: Row
    targets: tuple[str, str]
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Comparison:
    differences: tuple[Difference, ...]
    failures: tuple[Failures, ...]
    missing: tuple[str, ...]
    """What the first result has and the second has not."""
    notes: tuple[str, ...]

    def reasons_to_fail(self, least: float) -> Iterator[str]:
        """A gain below `least`, unless its interval reaches 1; more errors than before; a row that is gone."""
        for of in self.differences:
            if of.gain is None or of.gain.value >= least:
                continue
            if of.gain.interval is None or of.gain.shows_difference:
                where = f"{of.row.text}, {printable(of.targets[1])}, {quantity(of.figure).label}"
                yield f"{where}: {of.gain.value:.3f} of what it was"
        for failed in self.failures:
            if failed.second > failed.first:
                where = f"{failed.row.text}, {printable(failed.targets[1])}"
                yield f"{where}: {failed.second} failed requests instead of {failed.first}"
        yield from (f"{row}: gone" for row in self.missing)


def compare(
    first: Report,
    second: Report,
    pairs: Sequence[tuple[str, str]] = (),
    figures: Sequence[str] = FIGURES,
    seed: int = 0,
) -> Comparison:
    """Of the targets in `pairs` (name in the first, name in the second), else of those that both have.

    Raises `NoMatchError`.
    """
    pairs = _pairs(first, second, pairs)
    rows_of_first, rows_of_second = rows(first), rows(second)
    other = _other_workloads(first, second)
    differences: list[Difference] = []
    failures: list[Failures] = []
    missing = []
    for row, of_row in rows_of_first.items():
        for names in pairs:
            before, after = of_row.get(names[0], ()), rows_of_second.get(row, {}).get(names[1], ())
            if before and (not after or row.workload in other):
                missing.append(f"{row.text}, {printable(names[1])}")
            elif before:
                paired = first == second
                differences += _differences(row, names, before, after, figures, paired=paired, seed=seed)
                failures.append(Failures(row, names, n_errors(before), n_errors(after)))
    if not failures:
        raise NoMatchError("no workload was measured under the same load in both")
    return Comparison(tuple(differences), tuple(failures), tuple(missing), tuple(_notes(first, second, pairs, other)))


def _pairs(first: Report, second: Report, wanted: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    names = [target.name for target in first.targets], [target.name for target in second.targets]
    for index, place in ((0, "first"), (1, "second")):
        if unknown := [pair[index] for pair in wanted if pair[index] not in names[index]]:
            has = ", ".join(map(printable, names[index]))
            raise NoMatchError(f"the {place} result has no target {unknown[0]!r}; it has: {has}")
    found = list(wanted) or [(name, name) for name in names[0] if name in names[1]]
    if not found:
        told = " and ".join(", ".join(map(printable, of)) or "nothing" for of in names)
        raise NoMatchError(f"the results have no target of the same name ({told}); name one: --target FIRST=SECOND")
    return found


def _differences(
    row: Row, names: tuple[str, str], before: Sequence[Run], after: Sequence[Run], figures: Sequence[str],
    *, paired: bool, seed: int,
) -> Iterator[Difference]:  # fmt: skip
    for figure in figures:
        old, new = ([run for run in runs if figure in run.figures] for runs in (before, after))
        if paired:
            both = {run.repetition for run in old} & {run.repetition for run in new}
            old, new = ([run for run in runs if run.repetition in both] for runs in (old, new))
        was, is_now = spread(old, figure), spread(new, figure)
        if was is None or is_now is None:
            continue
        over, under = (old, new) if quantity(figure).better == "lower" else (new, old)
        gain = ratio(values(over, figure), values(under, figure), paired=paired, seed=seed)
        yield Difference(row, names, figure, was, is_now, (len(old), len(new)), gain, _verdict(figure, gain))


def _verdict(figure: str, gain: Ratio | None) -> Verdict:
    of = quantity(figure)
    if gain is None or of.better is None:
        return "cannot be told"
    if gain.interval is None:
        return "too few repetitions"
    if not gain.shows_difference:
        return "no difference shown"
    if of.unit in ("GiB", "J", "W"):
        return "less" if gain.value > 1 else "more"
    return "faster" if gain.value > 1 else "slower"


def _other_workloads(first: Report, second: Report) -> dict[str, str]:
    """Names that both have for different things, with what is different."""
    found = {}
    others = {workload.name: workload for workload in second.workloads}
    for workload in first.workloads:
        if workload.name in others and (unlike := _unlike(workload, others[workload.name])):
            found[workload.name] = unlike
    return found


def _unlike(workload: WorkloadRecord, other: WorkloadRecord) -> str:
    names = sorted({*workload.parameters, *other.parameters} - _IGNORED_PARAMETERS)
    values_of = [(name, workload.parameters.get(name), other.parameters.get(name)) for name in names]
    return ", ".join(f"{name} {before} and {after}" for name, before, after in values_of if before != after)


def _notes(first: Report, second: Report, pairs: Sequence[tuple[str, str]], other: Mapping[str, str]) -> Iterator[str]:
    for name, unlike in other.items():
        yield printable(f"{name}: not compared, it is another workload in each ({unlike})")
    machines = [(of.machine.cpu, of.machine.n_cpus, [gpu.name for gpu in of.machine.gpus]) for of in (first, second)]
    if machines[0] != machines[1]:
        yield "The results are of different machines."
    targets = [{target.name: target for target in of.targets} for of in (first, second)]
    for before, after in pairs:
        for what, was, is_now in _what_changed(targets[0][before], targets[1][after]):
            yield printable(f"{after}: {what} {was or 'not told'} → {is_now or 'not told'}")


def _what_changed(before: TargetRecord, after: TargetRecord) -> Iterator[tuple[str, str | None, str | None]]:
    told = [
        ("engine", before.engine, after.engine),
        ("version", before.engine_version, after.engine_version),
        ("model", before.model, after.model),
        ("card", before.card, after.card),
        ("driver", before.driver, after.driver),
        ("files", _files(before), _files(after)),
        ("command line", " ".join(before.argv), " ".join(after.argv)),
    ]
    yield from ((what, was, is_now) for what, was, is_now in told if was != is_now)


def _files(target: TargetRecord) -> str:
    return ", ".join(f"{file.name} {(file.sha256 or 'without a hash')[:12]}" for file in target.files)
