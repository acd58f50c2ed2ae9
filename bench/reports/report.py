"""Reports from a result.

gguf-server bench report RESULT.json                      # Markdown, to standard output
gguf-server bench report RESULT.json --html REPORT.html   # one page with plots; also --markdown REPORT.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.records.record import RecordError, Report, read
from bench.reports.markdown import markdown
from bench.reports.page import page
from bench.reports.plots import PlotsMissingError


def write_reports(report: Report, *, to_markdown: Path | None, to_html: Path | None, with_plots: bool = True) -> None:
    """Raises `PlotsMissingError`, `OSError`; the Markdown is there by then."""
    if to_markdown is not None:
        to_markdown.write_text(markdown(report), encoding="utf-8")
    if to_html is not None:
        to_html.write_text(page(report, with_plots=with_plots), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 2 where something is wrong with a file or matplotlib is missing."""
    parser = argparse.ArgumentParser(prog="bench report", description="Reports from a result.")
    parser.add_argument("result", type=Path, metavar="RESULT.json")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="standard output unless a file is named")
    parser.add_argument("--html", type=Path, metavar="FILE", help="one page that needs nothing else")
    parser.add_argument("--no-plots", action="store_true", help="the page without plots, which need matplotlib")
    given = parser.parse_args(argv)
    try:
        report = read(given.result)
        write_reports(report, to_markdown=given.markdown, to_html=given.html, with_plots=not given.no_plots)
    except (RecordError, PlotsMissingError, OSError) as wrong:
        print(f"bench report: {wrong}", file=sys.stderr)
        return 2
    if given.markdown is None and given.html is None:
        print(markdown(report), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
