"""What became of a measurement: the second result over the first, with confidence intervals.

    gguf-server bench compare BEFORE.json AFTER.json --fail-below 0.95
    gguf-server bench compare RESULT.json RESULT.json --target vllm=llama.cpp    # two targets of one measurement

A gain of 1.10: the second is 1.10 times as good, be it in tokens a second or in seconds to wait. Of one measurement,
in which targets take turns, the repetitions are compared as pairs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.records.quantity import quantity
from bench.records.record import RecordError, Report, read
from bench.records.rows import printable
from bench.reports.markdown import escaped, table_lines
from bench.reports.tables import Table
from bench.verdicts.comparison import FIGURES, Comparison, Difference, NoMatchError, compare
from bench.verdicts.ratio import LEAST, LEVEL


def text(comparison: Comparison) -> str:
    """Markdown."""
    return "\n".join(_lines(comparison)) + "\n"


def _lines(comparison: Comparison) -> Iterator[str]:
    yield from table_lines(_table(comparison))
    yield ""
    if any(of.gain is not None and of.gain.interval is None for of in comparison.differences):
        yield f"Fewer than {LEAST} repetitions on a side have no confidence interval: such a gain may be chance."
    for failed in comparison.failures:
        if failed.first or failed.second:
            where = f"{failed.row.text}, {_names(failed.targets)}"
            yield escaped(f"{where}: {failed.first} requests failed in the first, {failed.second} in the second.")
    yield from (escaped(f"Only in the first: {row}.") for row in comparison.missing)
    yield from (escaped(note) for note in comparison.notes)


def _table(comparison: Comparison) -> Table:
    lines = tuple(_line(of) for of in comparison.differences)
    interval = f"{LEVEL:.0%} interval"
    headings = ("workload and load", "target", "figure", "first", "second", "gain", interval, "verdict")
    return Table("The second result over the first", headings, lines, n_heading_columns=3, is_numeric=True)


def _line(of: Difference) -> tuple[str, ...]:
    figure = quantity(of.figure)
    gain = "–" if of.gain is None else f"{of.gain.value:.3f}"
    interval = of.gain.interval if of.gain is not None else None
    return (
        of.row.text,
        _names(of.targets),
        figure.title,
        figure.text(of.first.middle),
        figure.text(of.second.middle),
        gain,
        "–" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}",
        of.verdict,
    )


def _names(targets: tuple[str, str]) -> str:
    before, after = (printable(name) for name in targets)
    return before if before == after else f"{before} → {after}"


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 1 where `--fail-below` found a reason, or 2 where nothing could be compared."""
    given = _parser().parse_args(argv)
    try:
        first, second = read(given.first), read(given.second)
        pairs = [_pair(wanted, first) for wanted in given.target]
        found = compare(first, second, pairs, given.figure or FIGURES, seed=given.seed)
    except (RecordError, NoMatchError, OSError) as wrong:
        print(f"bench compare: {wrong}", file=sys.stderr)
        return 2
    print(text(found), end="")
    if given.fail_below is None:
        return 0
    reasons = list(found.reasons_to_fail(given.fail_below))
    for reason in reasons:
        print(f"bench compare: {reason}", file=sys.stderr)
    return 1 if reasons else 0


def _pair(wanted: str, first: Report) -> tuple[str, str]:
    """NAME, or FIRST=SECOND."""
    if wanted in [target.name for target in first.targets]:
        return wanted, wanted
    before, _, after = wanted.partition("=")
    return before, after or before


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench compare", description="The second result over the first.")
    parser.add_argument("first", type=Path, metavar="BEFORE.json")
    parser.add_argument("second", type=Path, metavar="AFTER.json")
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME[=NAME]",
        help="its name in the first, and in the second where that is another; may be repeated; all that both have",
    )
    parser.add_argument(
        "--figure", action="append", metavar="NAME", help=f"may be repeated; by default {', '.join(FIGURES)}"
    )
    parser.add_argument(
        "--fail-below",
        type=float,
        metavar="GAIN",
        help="exit with 1 if a gain is below this and its interval does not reach 1 (without an interval, the gain "
        "alone decides), if more requests failed, or if a row of the first is gone",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    return parser


if __name__ == "__main__":
    sys.exit(main())
