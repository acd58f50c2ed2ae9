"""A report as one HTML page: it needs no other file, no script, no network, and works by keyboard and by ear."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from bench.records.record import Report
from bench.records.rows import printable
from bench.reports import pictures, tables
from bench.reports.plots import Plot, svg
from bench.reports.tables import Table


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    tables: tuple[Table, ...]
    pictures: tuple[tuple[Plot, str], ...] = ()


def page(report: Report, *, with_plots: bool = True) -> str:
    """Raises `PlotsMissingError` where plots are wanted and cannot be drawn."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("bench.reports").joinpath("report.html.j2").read_text(encoding="utf-8"))
    return template.render(
        title=f"Measured: {printable(report.suite)}",
        started_at=report.started_at.isoformat(timespec="seconds"),
        notes=[printable(note) for note in report.notes],
        sections=_sections(report, with_plots=with_plots),
    )


def _sections(report: Report, *, with_plots: bool) -> list[Section]:
    found = []
    for workload in report.workloads:
        table = tables.results(report, workload.name)
        if table.rows:
            drawn = pictures.plots(report, workload.name) if with_plots else ()
            found.append(Section(printable(workload.name), (table,), tuple((plot, svg(plot)) for plot in drawn)))
    for title, of_title in (("Predicted", tables.predictions(report)), ("Errors", tables.errors(report))):
        if of_title is not None:
            found.append(Section(title, (of_title,)))
    about = (tables.targets(report), tables.workloads(report), tables.machine(report))
    return [*found, Section("What was measured", about)]
