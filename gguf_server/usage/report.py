"""What people ask of the ledger: which days, whose, grouped by what; with the keys' names."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path

from gguf_server.keys import KeyRecord
from gguf_server.usage.ledger import LedgerError, reading


class Grouping(StrEnum):
    DAY = "day"
    KEY = "key"
    SERVICE = "service"
    MODEL = "model"
    ENGINE = "engine"

    @property
    def column(self) -> str:
        """Its name in the ledger."""
        return "key_id" if self is Grouping.KEY else self.value


@dataclass(frozen=True, slots=True)
class Question:
    """`first` and `last` are days, both counted; None is the ledger's own end. `key_ids` None is every key."""

    first: date | None
    last: date | None
    groupings: tuple[Grouping, ...]
    key_ids: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """`group` holds a value for each grouping of the question."""

    group: tuple[str, ...]
    n_requests: int
    n_errors: int
    n_refused: int
    n_prompt_tokens: int
    n_completion_tokens: int
    n_cached_tokens: int
    elapsed_s: float


_SUMS = ", ".join(
    f"sum({column})"
    for column in (
        "n_requests", "n_errors", "n_refused", "n_prompt_tokens", "n_completion_tokens", "n_cached_tokens", "elapsed_s"
    )
)  # fmt: skip


def ask(path: Path, question: Question) -> list[Row]:
    """Ordered by group. Raises `LedgerError`."""
    columns = ", ".join(grouping.column for grouping in question.groupings)
    key_ids = question.key_ids
    where = "day >= ? AND day <= ?" + (f" AND key_id IN ({', '.join('?' * len(key_ids))})" if key_ids else "")
    first = question.first.isoformat() if question.first else ""
    last = question.last.isoformat() if question.last else "~"
    # Only names of columns are put into the statement, of which there is a closed list.
    statement = f"SELECT {columns}, {_SUMS} FROM usage WHERE {where} GROUP BY {columns} ORDER BY {columns}"  # noqa: S608
    with reading(path) as db:
        try:
            found = db.execute(statement, (first, last, *(key_ids or ()))).fetchall()
        except sqlite3.Error as exc:
            raise LedgerError(f"{path}: {exc}") from exc
    n = len(question.groupings)
    return [Row(tuple(row[:n]), *row[n:]) for row in found]


def total(rows: Sequence[Row]) -> Row:
    """Of no group."""
    return Row(
        (),
        sum(row.n_requests for row in rows),
        sum(row.n_errors for row in rows),
        sum(row.n_refused for row in rows),
        sum(row.n_prompt_tokens for row in rows),
        sum(row.n_completion_tokens for row in rows),
        sum(row.n_cached_tokens for row in rows),
        sum(row.elapsed_s for row in rows),
    )


def names_of(keys: Sequence[KeyRecord]) -> Mapping[str, str]:
    """Key id → name. Keys of the environment are not in the file: their id is their name."""
    return {key.id: key.name for key in keys}


def ids_of(id_or_name: str, keys: Sequence[KeyRecord]) -> tuple[str, ...]:
    """The keys meant; a name may have been used again for a new key. What the file does not know is taken for an id."""
    return tuple(key.id for key in keys if id_or_name in (key.id, key.name)) or (id_or_name,)
