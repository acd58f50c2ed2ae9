"""From the records of requests to the ledger, in a thread of its own.

Requests only add to counts in memory. Once a second what has come together is written in one transaction, so a server
that is killed forgets a second's counts at most. While the file cannot be written, counts stay in memory and are tried
again each second: a full disk that is freed has cost nothing.
"""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import structlog

from gguf_server.request_record import RequestRecord
from gguf_server.usage.counts import Account, Counts, account_of
from gguf_server.usage.ledger import Ledger, LedgerError, first_day_kept

FLUSH_S: Final = 1.0
_CLOSE_S: Final = 10.0

log = structlog.get_logger("usage")


class UsageRecorder:
    """`keep_days` 0 keeps all. `problem` is why nothing can be written just now, or None."""

    def __init__(self, path: Path, *, keep_days: int = 0, flush_s: float = FLUSH_S) -> None:
        self._path = path
        self._keep_days = keep_days
        self._flush_s = flush_s
        self._pending: dict[Account, Counts] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._ledger: Ledger | None = None
        self._tidied: date | None = None
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)
        self.problem: str | None = None

    def start(self) -> None:
        self._thread.start()

    def observe(self, record: RequestRecord) -> None:
        account = account_of(record)
        if account is None:
            return
        with self._lock:
            counts = self._pending.get(account)
            if counts is None:
                counts = self._pending[account] = Counts()
            counts.add(record)

    def close(self) -> None:
        """Write what is left; blocks, for some seconds at most."""
        self._closing.set()
        self._thread.join(_CLOSE_S)
        with self._lock:
            n_lost = sum(counts.n_requests for counts in self._pending.values())
        if n_lost:
            log.error("usage is lost", requests=n_lost, why=self.problem or "the disk does not answer")

    def _run(self) -> None:
        try:
            closing = False
            while not closing:
                closing = self._closing.wait(self._flush_s)
                self._flush()
        finally:
            if self._ledger is not None:
                self._ledger.close()
            if not self._closing.is_set():
                self.problem = "its thread has ended: restart the server"

    def _flush(self) -> None:
        with self._lock:
            taken, self._pending = self._pending, {}
        if not taken and self._ledger is not None:
            return
        try:
            self._ledger = self._opened()
            self._tidy(self._ledger)
            self._ledger.add(taken)
        except LedgerError as error:
            self._put_back(taken)
            self._note(str(error))
        else:
            self._note(None)

    def _opened(self) -> Ledger:
        if self._ledger is not None and self._ledger.is_in_place:
            return self._ledger
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
        return Ledger(self._path)

    def _put_back(self, taken: dict[Account, Counts]) -> None:
        with self._lock:
            for account, counts in taken.items():
                if account in self._pending:
                    self._pending[account] += counts
                else:
                    self._pending[account] = counts

    def _tidy(self, ledger: Ledger) -> None:
        """Remove, once a day, what is older than it is kept."""
        today = datetime.now(UTC).date()
        if self._keep_days and self._tidied != today:
            ledger.remove_before(first_day_kept(today, self._keep_days))
            self._tidied = today

    def _note(self, problem: str | None) -> None:
        if problem and not self.problem:
            log.warning("usage cannot be written; it is kept in memory", why=problem)
        if self.problem and not problem:
            log.info("usage is written again")
        self.problem = problem
