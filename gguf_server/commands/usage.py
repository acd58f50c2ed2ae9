"""`gguf-server usage`: what keys used, from the ledger of a server that may be running or not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from gguf_server.keys import KeysError, list_keys
from gguf_server.usage import rendering
from gguf_server.usage.ledger import LedgerError, first_day_kept
from gguf_server.usage.report import Grouping, Question, Row, ask, ids_of, names_of

Render = Callable[[Question, Sequence[Row], Mapping[str, str]], str]

RENDERINGS: dict[str, Render] = {
    "table": rendering.as_table,
    "json": rendering.as_json,
    "csv": rendering.as_csv,
}


@dataclass(frozen=True, slots=True)
class UsageRequest:
    """`days` counts back from today, UTC, and is asked for where neither `first` nor `last` is."""

    first: date | None
    last: date | None
    days: int
    key: str | None
    groupings: tuple[Grouping, ...]
    rendering: str


def show_usage(file: Path, keys_file: Path, request: UsageRequest) -> int:
    """Prints it; returns the exit status."""
    first = request.first
    if request.first is None and request.last is None:
        first = first_day_kept(datetime.now(UTC).date(), request.days)
    try:
        keys = list_keys(keys_file)
        key_ids = ids_of(request.key, keys) if request.key is not None else None
        question = Question(first, request.last, request.groupings, key_ids)
        rows = ask(file, question)
    except (KeysError, LedgerError) as error:
        print(error, file=sys.stderr)
        return 1
    print(RENDERINGS[request.rendering](question, rows, names_of(keys)))
    return 0
