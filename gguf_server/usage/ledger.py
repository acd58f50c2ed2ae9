"""The SQLite file of what keys used. Several gateways may share one: what they add is added up.

A row is one account's day. The file says which version of the schema it has; an older one is brought forward when it
is opened for writing, a newer one is refused. Every function here blocks.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Final

from gguf_server.limits.daily import DayCount
from gguf_server.usage.counts import Account, Counts, as_date

_BUSY_TIMEOUT_S: Final = 5.0

MIGRATIONS: Final = (
    """
    CREATE TABLE usage (
        day TEXT NOT NULL,
        key_id TEXT NOT NULL,
        service TEXT NOT NULL,
        model TEXT NOT NULL,
        engine TEXT NOT NULL,
        n_requests INTEGER NOT NULL,
        n_errors INTEGER NOT NULL,
        n_refused INTEGER NOT NULL,
        n_prompt_tokens INTEGER NOT NULL,
        n_completion_tokens INTEGER NOT NULL,
        n_cached_tokens INTEGER NOT NULL,
        elapsed_s REAL NOT NULL,
        PRIMARY KEY (day, key_id, service, model, engine)
    ) STRICT, WITHOUT ROWID
    """,
)
"""What brings a file from each version of the schema to the next; a new file is of version 0."""

_ADD: Final = """
    INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET
        n_requests = n_requests + excluded.n_requests,
        n_errors = n_errors + excluded.n_errors,
        n_refused = n_refused + excluded.n_refused,
        n_prompt_tokens = n_prompt_tokens + excluded.n_prompt_tokens,
        n_completion_tokens = n_completion_tokens + excluded.n_completion_tokens,
        n_cached_tokens = n_cached_tokens + excluded.n_cached_tokens,
        elapsed_s = elapsed_s + excluded.elapsed_s
"""
_COUNTS_OF_DAY: Final = """
    SELECT key_id, sum(n_requests - n_refused), sum(n_prompt_tokens + n_completion_tokens)
    FROM usage WHERE day = ? GROUP BY key_id
"""


class LedgerError(Exception):
    """A file that cannot be read or written, with the reason in words for the operator."""


class Ledger:
    """The file, open for adding to it; for one thread. Raises `LedgerError`, here and later."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _told(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._inode = path.stat().st_ino
            self._db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = NORMAL")
                _migrate(self._db, path)
            except BaseException:
                self._db.close()
                raise

    @property
    def is_in_place(self) -> bool:
        """Whether the path still leads to this file, which somebody may have taken away."""
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    def add(self, counts: Mapping[Account, Counts]) -> None:
        """All of them, or on `LedgerError` none."""
        rows = [
            (as_date(account.day).isoformat(), *account[1:], *of_account.as_tuple())
            for account, of_account in counts.items()
        ]
        with _told(self._path), _transaction(self._db):
            self._db.executemany(_ADD, rows)

    def remove_before(self, day: date) -> None:
        with _told(self._path), _transaction(self._db):
            self._db.execute("DELETE FROM usage WHERE day < ?", (day.isoformat(),))

    def close(self) -> None:
        self._db.close()


class PastUsage:
    """What the file says of a day, for the quotas of a server that starts; a file that is not there says nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, day: date) -> Mapping[str, DayCount]:
        """By key id: requests that were let in, and their tokens. Raises `LedgerError`."""
        if not self._path.exists():
            return {}
        with reading(self._path) as db, _told(self._path):
            rows = db.execute(_COUNTS_OF_DAY, (day.isoformat(),)).fetchall()
        return {key_id: DayCount(n_requests, n_tokens) for key_id, n_requests, n_tokens in rows}


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """The file, for questions only; whether a server writes it meanwhile makes no difference. Raises `LedgerError`."""
    if not path.exists():
        raise LedgerError(f"{path}: there is no usage yet")
    with _told(path):
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT_S)
    with closing(db):
        with _told(path):
            _check_version(_version(db), path)
        yield db


def first_day_kept(today: date, keep_days: int) -> date:
    return today - timedelta(days=keep_days - 1)


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    """One transaction, so that of two gateways which start at once the second finds it done."""
    if _version(db) == len(MIGRATIONS):
        return
    with _transaction(db):
        version = _version(db)
        _check_version(version, path)
        for statement in MIGRATIONS[version:]:
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _check_version(version: int, path: Path) -> None:
    if version > len(MIGRATIONS):
        raise LedgerError(f"{path}: made by a newer gguf-server (schema {version}, this one knows {len(MIGRATIONS)})")


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:  # a full disk has ended it already
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        raise LedgerError(f"{path}: {exc}") from exc
    except OSError as exc:
        raise LedgerError(f"{exc.filename or path}: {exc.strerror}") from exc
