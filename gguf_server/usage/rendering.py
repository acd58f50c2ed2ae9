"""What was asked of the ledger, as a table for people, and as JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gguf_server.usage.report import Grouping, Question, Row, total

_FIGURES: Final = ("REQUESTS", "ERRORS", "REFUSED", "PROMPT", "COMPLETION", "CACHED", "SECONDS")


def as_table(question: Question, rows: Sequence[Row], names: Mapping[str, str]) -> str:
    """Columns under each other, the sum below. PROMPT, COMPLETION and CACHED are tokens."""
    heads = [grouping.upper() for grouping in question.groupings]
    lines = [[*heads, *_FIGURES]]
    lines += [[*_shown(question, row, names), *_figures(row)] for row in rows]
    lines.append(["TOTAL", *[""] * (len(heads) - 1), *_figures(total(rows))])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    n_heads = len(heads)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < n_heads else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def as_json(question: Question, rows: Sequence[Row], names: Mapping[str, str]) -> str:
    """`{"from", "to", "rows", "total"}`."""
    return json.dumps(
        {
            "from": question.first.isoformat() if question.first else None,
            "to": question.last.isoformat() if question.last else None,
            "rows": [_as_object(question, row, names) for row in rows],
            "total": _amounts(total(rows)),
        },
        indent=2,
        ensure_ascii=False,
    )


def as_csv(question: Question, rows: Sequence[Row], names: Mapping[str, str]) -> str:
    """A heading and the rows, without their sum."""
    written = io.StringIO()
    empty = Row(("",) * len(question.groupings), 0, 0, 0, 0, 0, 0, 0.0)
    writer = csv.DictWriter(written, _as_object(question, empty, names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_as_object(question, row, names) for row in rows)
    return written.getvalue().rstrip("\n")


def _shown(question: Question, row: Row, names: Mapping[str, str]) -> list[str]:
    return [
        (names.get(value, value) if grouping is Grouping.KEY else value) or "-"
        for grouping, value in zip(question.groupings, row.group, strict=True)
    ]


def _figures(row: Row) -> list[str]:
    return [
        str(row.n_requests),
        str(row.n_errors),
        str(row.n_refused),
        str(row.n_prompt_tokens),
        str(row.n_completion_tokens),
        str(row.n_cached_tokens),
        f"{row.elapsed_s:.1f}",
    ]


def _as_object(question: Question, row: Row, names: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for grouping, value in zip(question.groupings, row.group, strict=True):
        found[grouping.column] = value
        if grouping is Grouping.KEY:
            found["key_name"] = names.get(value, value)
    return found | _amounts(row)


def _amounts(row: Row) -> dict[str, Any]:
    return {
        "requests": row.n_requests,
        "errors": row.n_errors,
        "refused": row.n_refused,
        "prompt_tokens": row.n_prompt_tokens,
        "completion_tokens": row.n_completion_tokens,
        "cached_tokens": row.n_cached_tokens,
        "seconds": round(row.elapsed_s, 3),
    }
