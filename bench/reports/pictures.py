"""Which plots a result has: what is drawn over what, and from which runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from bench.records.quantity import quantity
from bench.records.record import ClosedLoad, GapHistogram, OpenLoad, Report, Run
from bench.records.rows import Row, load_size, rows, spread
from bench.reports.plots import Line, Plot

OVER_LOAD: Final = ("output_tok_per_s", "ttft_s_p50", "ttft_s_p95", "gap_s_p95", "e2e_s_p95", "goodput_per_s")
_WIDE: Final = 8.0
"""A range of loads wider than so many times is drawn in equal steps of its ratio."""

Rows = Mapping[Row, Mapping[str, Sequence[Run]]]


def plots(report: Report, workload: str) -> Iterator[Plot]:
    """Of one workload. A curve over a single load is a point that the table tells better: it is left out."""
    number = [of.name for of in report.workloads].index(workload)
    indexes = {target.name: index for index, target in enumerate(report.targets)}
    of_workload = {row: of_row for row, of_row in rows(report).items() if row.workload == workload}
    for kind in (ClosedLoad, OpenLoad):
        of_kind = {row: of_row for row, of_row in of_workload.items() if isinstance(row.load, kind)}
        if len(of_kind) > 1:
            yield from _over_load(f"w{number}-{kind.__name__}", of_kind, indexes)
    if of_workload:
        busiest = _busiest(of_workload)
        yield from _of_row(f"w{number}", busiest, of_workload[busiest], indexes)


def _busiest(of_workload: Rows) -> Row:
    """The largest closed load, or the largest rate where there is none."""
    return max(of_workload, key=lambda row: (row.load.kind == "closed", load_size(row.load)))


def _over_load(key: str, of_kind: Rows, indexes: Mapping[str, int]) -> Iterator[Plot]:
    loads = [load_size(row.load) for row in of_kind]
    is_open = isinstance(next(iter(of_kind)).load, OpenLoad)
    for name in OVER_LOAD:
        of = quantity(name)
        lines = tuple(line for target, index in indexes.items() if (line := _line(target, index, name, of_kind)))
        if any(len(line.x) > 1 for line in lines):
            yield Plot(
                key=f"{key}-{name}",
                title=f"{of.label} over {'the rate of requests' if is_open else 'the number of streams'}",
                x_label="requests sent (1/s)" if is_open else "streams at once",
                y_label=of.title,
                lines=lines,
                log_x=max(loads) > _WIDE * min(loads),
                x_ticks=tuple(loads) if len(loads) <= 12 else (),
            )


def _line(target: str, index: int, name: str, of_kind: Rows) -> Line | None:
    """With the spread over repetitions; None where the target has no such figure."""
    of = quantity(name)
    found = [
        (load_size(row.load), of_figure)
        for row, of_row in of_kind.items()
        if (of_figure := spread(of_row.get(target, ()), name)) is not None
    ]
    if not found:
        return None
    return Line(
        name=target,
        index=index,
        x=[size for size, _ in found],
        y=[of.shown(of_figure.middle) for _, of_figure in found],
        least=[of.shown(of_figure.least) for _, of_figure in found],
        most=[of.shown(of_figure.most) for _, of_figure in found],
    )


def _of_row(key: str, row: Row, of_row: Mapping[str, Sequence[Run]], indexes: Mapping[str, int]) -> Iterator[Plot]:
    gaps = tuple(line for name, runs in of_row.items() if (line := _gap_line(name, indexes[name], runs)))
    if gaps:
        yield Plot(
            key=f"{key}-gaps",
            title=f"distribution of gaps between tokens, {row.text}",
            x_label="gap (ms)",
            y_label="gaps no longer than this (%)",
            lines=gaps,
            kind="line",
            log_x=True,
        )
    for name, title, unit, of_run in _TRACES:
        lines = tuple(
            Line(target, indexes[target], [x for x, _ in trace], [y for _, y in trace])
            for target, runs in of_row.items()
            if (trace := next((found for run in runs if len(found := of_run(run)) > 1), []))
        )
        if lines:
            yield Plot(
                f"{key}-{name}", f"{title} over time, {row.text}", "time (s)", f"{title} ({unit})", lines, "line"
            )


def _gap_line(target: str, index: int, runs: Sequence[Run]) -> Line | None:
    found = distribution([run.gaps for run in runs if run.gaps is not None])
    return Line(target, index, [1000 * x for x, _ in found], [100 * y for _, y in found]) if found else None


def distribution(histograms: Sequence[GapHistogram]) -> list[tuple[float, float]]:
    """(gap in seconds, share of gaps below it) at every edge of any of them, where it is exact. Empty without gaps."""
    total = sum(sum(histogram.counts) for histogram in histograms)
    if total == 0:
        return []
    edges = sorted({edge for histogram in histograms for edge in histogram.edges_s if edge > 0})
    return [(edge, sum(_below(histogram, edge) for histogram in histograms) / total) for edge in edges]


def _below(histogram: GapHistogram, limit_s: float) -> int:
    """Gaps in bins that end at the limit or before it."""
    ends = (*histogram.edges_s, math.inf)
    return sum(count for end, count in zip(ends, histogram.counts, strict=True) if end <= limit_s)


def _gpu_memory(run: Run) -> list[tuple[float, float]]:
    return [(look.t_s, look.gpu_bytes / (1 << 30)) for look in run.memory if look.gpu_bytes is not None]


def _memory(run: Run) -> list[tuple[float, float]]:
    return [(look.t_s, look.rss_bytes / (1 << 30)) for look in run.memory if look.rss_bytes is not None]


def _power(run: Run) -> list[tuple[float, float]]:
    return [(look.t_s, look.watts) for look in run.power]


_TRACES: Final = (
    ("gpu-memory", "GPU memory", "GiB", _gpu_memory),
    ("memory", "memory of the processes", "GiB", _memory),
    ("power", "power", "W", _power),
)
