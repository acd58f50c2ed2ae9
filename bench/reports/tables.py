"""A result as tables: what a Markdown and an HTML report both consist of. Cells are plain text, not yet escaped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from bench.records.quantity import quantity
from bench.records.record import Gpu, Predicted, Report, Run, TargetRecord
from bench.records.rows import Row, error_kinds, load_text, n_errors, printable, rows, spread, spread_text

SHOWN: Final = (
    "output_tok_per_s", "goodput_per_s", "ttft_s_p50", "ttft_s_p95", "gap_s_p50", "gap_s_p95", "e2e_s_p95",
    "gpu_peak_bytes", "rss_peak_bytes", "energy_j_per_output_tok",
)  # fmt: skip
_UNKNOWN: Final = "not told"


@dataclass(frozen=True, slots=True)
class Table:
    """The first `n_heading_columns` cells of a row name it; the cells after them are figures where `is_numeric`."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_heading_columns: int = 1
    is_numeric: bool = False


def machine(report: Report) -> Table:
    of = report.machine
    cards = [(f"card {index}", _card(card)) for index, card in enumerate(of.gpus)]
    versions = of.versions.items()
    told = [
        ("system", of.system),
        ("processor", f"{of.cpu}, {of.n_cpus} cores"),
        ("memory", _gib(of.memory_bytes)),
        *(cards or [("card", "none")]),
        *versions,
    ]
    return Table("Machine and versions", ("", "what it is"), _printable(told))


def _card(card: Gpu) -> str:
    limit = "" if card.power_limit_w is None else f", limit {card.power_limit_w:g} W"
    return f"{card.name}, {_gib(card.memory_bytes)}, driver {card.driver or _UNKNOWN}{limit}"


def targets(report: Report) -> Table:
    """One column a target."""
    told = [_of_target(target) for target in report.targets]
    names = tuple(told[0]) if told else ()
    lines = [(name, *(of_target[name] for of_target in told)) for name in names]
    return Table("Targets", ("", *(printable(target.name) for target in report.targets)), _printable(lines))


def _of_target(target: TargetRecord) -> dict[str, str]:
    files = [f"{file.name}, {_gib(file.n_bytes)}, SHA-256 {file.sha256 or _UNKNOWN}" for file in target.files]
    return {
        "engine": target.engine,
        "version": target.engine_version or _UNKNOWN,
        "model": target.model or _UNKNOWN,
        "files": "; ".join(files) or _UNKNOWN,
        "computes on": target.card or "the processor",
        "driver": target.driver or "–",
        "address": target.url,
        "started by": " ".join(target.argv) or "somebody else",
    }


def workloads(report: Report) -> Table:
    told = [
        (of.name, of.description, ", ".join(f"{name} {value}" for name, value in of.parameters.items()))
        for of in report.workloads
    ]
    return Table("Workloads", ("workload", "what is asked", "parameters"), _printable(told))


def results(report: Report, workload: str) -> Table:
    """Medians over the repetitions, and from the least to the most where they differ."""
    of_workload = {row: of_row for row, of_row in rows(report).items() if row.workload == workload}
    runs = [run for of_row in of_workload.values() for of_target in of_row.values() for run in of_target]
    shown = [name for name in SHOWN if any(name in run.figures for run in runs)]
    lines = [
        (load_text(row.load), target, *_figures(of_target, shown))
        for row, of_row in of_workload.items()
        for target, of_target in of_row.items()
    ]
    headings = ("load", "target", *(quantity(name).title for name in shown), "failed", "repetitions")
    caption = f"{printable(workload)}: median over the repetitions (least to most)"
    return Table(caption, headings, _printable(lines), n_heading_columns=2, is_numeric=True)


def _figures(runs: Sequence[Run], shown: Sequence[str]) -> Iterator[str]:
    yield from (spread_text(runs, name) for name in shown)
    yield str(n_errors(runs))
    yield str(len(runs))


def errors(report: Report) -> Table | None:
    """None where nothing failed."""
    lines = [
        (row.text, target, kind.replace("_", " "), f"{count:,}")
        for row, of_row in rows(report).items()
        for target, of_target in of_row.items()
        for kind, count in error_kinds(of_target).items()
        if count
    ]
    headings = ("workload and load", "target", "error", "requests")
    return Table("Requests that failed, by kind", headings, _printable(lines), 3, is_numeric=True) if lines else None


def predictions(report: Report) -> Table | None:
    """None where nothing was predicted."""
    lines = [
        line
        for row, of_row in rows(report).items()
        for target, of_target in of_row.items()
        for line in _predictions(row, target, of_target)
    ]
    headings = ("workload and load", "target", "figure", "predicted", "measured", "measured / predicted", "verdict")
    caption = "Predicted beside measured (median over the repetitions)"
    return Table(caption, headings, _printable(lines), 3, is_numeric=True) if lines else None


def _predictions(row: Row, target: str, runs: Sequence[Run]) -> Iterator[tuple[str, ...]]:
    """The first repetition's prediction: a plan does not change within a measurement."""
    for name in dict.fromkeys(name for run in runs for name in run.predicted):
        predicted = next(run.predicted[name] for run in runs if name in run.predicted)
        of, measured = quantity(name), spread(runs, name)
        error = "" if predicted.relative_error is None else f" ± {predicted.relative_error:.0%}"
        told = of.text(predicted.value) + error
        if measured is None or predicted.value <= 0:
            yield row.text, target, of.title, told, spread_text(runs, name), "–", "cannot be told"
            continue
        ratio = measured.middle / predicted.value
        yield row.text, target, of.title, told, spread_text(runs, name), f"{ratio:.2f}", _verdict(predicted, ratio)


def _verdict(predicted: Predicted, ratio: float) -> str:
    if predicted.relative_error is None:
        return "no bounds told"
    if abs(ratio - 1) <= predicted.relative_error:
        return "within the bounds"
    return "above the bounds" if ratio > 1 else "below the bounds"


def _printable(lines: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(printable(cell) for cell in line) for line in lines)


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / (1 << 30):.2f} GiB"
