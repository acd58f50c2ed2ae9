"""A report as Markdown: the tables of `bench.reports.tables`, for an issue or a merge request."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from bench.records.record import Report
from bench.records.rows import printable
from bench.reports import tables
from bench.reports.tables import Table

_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>|~&$#])")


def markdown(report: Report) -> str:
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    yield f"# Measured: {escaped(report.suite)}"
    yield f"\nStarted {report.started_at.isoformat(timespec='seconds')}.\n"
    yield from (f"- {escaped(note)}" for note in report.notes)
    found = [tables.results(report, workload.name) for workload in report.workloads]
    found = [table for table in found if table.rows]
    rest = [tables.predictions(report), tables.errors(report)]
    about = [tables.workloads(report), tables.targets(report), tables.machine(report)]
    for table in [*found, *(table for table in rest if table is not None), *about]:
        yield ""
        yield from table_lines(table)
    yield ""


def table_lines(table: Table) -> Iterator[str]:
    yield f"**{escaped(table.caption)}**\n"
    yield _row(table.headings)
    marks = [
        "---:" if table.is_numeric and column >= table.n_heading_columns else "---"
        for column in range(len(table.headings))
    ]
    yield "| " + " | ".join(marks) + " |"
    yield from (_row(row) for row in table.rows)


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(escaped(cell) for cell in cells) + " |"


def escaped(text: str) -> str:
    """On one line, and nothing in it is markup."""
    return _SPECIAL.sub(r"\\\1", printable(" ".join(text.split())))
