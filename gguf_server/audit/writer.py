"""From the event loop to the audit's file, in a thread of its own.

The loop only puts what is to be said into a queue. The thread seals all that has come together, writes it at once and
sees to it that it reaches the disk: after each write, or once a second. While that fails, it is tried again each
second; what there is no room to remember meanwhile is counted, and told when lines can be written again.
"""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from typing import Final

import structlog

from gguf_server.audit import entries
from gguf_server.audit.chain import Fields, Position
from gguf_server.audit.log_file import LogFile
from gguf_server.audit.secret import AuditError
from gguf_server.request_record import RequestRecord

MOST_PENDING: Final = 20_000
_MOST_AT_ONCE: Final = 1_000
_RETRY_S: Final = 1.0
_CLOSE_S: Final = 10.0

Said = RequestRecord | Fields

log = structlog.get_logger("audit")


class AuditWriter:
    """`sync_every_s` 0 syncs after each write. `problem` is why lines cannot be written just now, or None."""

    def __init__(
        self, file: LogFile, *, with_client: bool = True, sync_every_s: float = 0.0, retry_s: float = _RETRY_S
    ) -> None:
        self._file = file
        self._with_client = with_client
        self._sync_every_s = sync_every_s
        self._retry_s = retry_s
        self._queue: SimpleQueue[Said | None] = SimpleQueue()
        self._pending: list[Said] = []
        self._must_sync_at: float | None = None
        self._closing = threading.Event()
        self._n_dropped = 0
        self._drop_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self.problem: str | None = None

    @property
    def last(self) -> Position:
        """Where the chain stands; for an outside witness that it never goes back."""
        return self._file.last

    def start(self) -> None:
        """Raises `AuditError` where the file cannot be had. Blocks."""
        self._file.open()
        self._thread.start()

    def say(self, said: Said) -> None:
        if self._queue.qsize() < MOST_PENDING:
            self._queue.put(said)
        else:
            with self._drop_lock:
                self._n_dropped += 1

    def close(self) -> None:
        """Write what is left; blocks, for some seconds at most."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(_CLOSE_S)
        n_lost = len(self._pending) + self._queue.qsize() + self._n_dropped
        if self._thread.is_alive() or n_lost:
            log.error("lines of the audit are lost", lines=n_lost, why=self.problem or "the disk does not answer")

    def _run(self) -> None:
        try:
            while not (self._closing.is_set() and self._queue.empty() and not self._pending):
                self._take()
                try:
                    self._write()
                except (OSError, AuditError) as error:
                    self._note(_in_words(error))
                    if self._closing.wait(self._retry_s):
                        break
                else:
                    self._note(None)
            self._sync(now=True)
        except (OSError, AuditError) as error:
            self._note(_in_words(error))
        finally:
            self._file.close()
            if not self._closing.is_set():
                self.problem = "its thread has ended: restart the server"

    def _take(self) -> None:
        """Wait until there is something to write, or to sync."""
        if self._pending:
            return
        wait_s = None if self._must_sync_at is None else max(0.0, self._must_sync_at - time.monotonic())
        found: list[Said | None] = []
        try:
            found.append(self._queue.get(timeout=wait_s))
            while len(found) < _MOST_AT_ONCE:
                found.append(self._queue.get_nowait())
        except Empty:
            pass  # that is all there is
        self._pending = [said for said in found if said is not None]

    def _write(self) -> None:
        if self._pending:
            with self._drop_lock:
                n_dropped, self._n_dropped = self._n_dropped, 0
            if n_dropped:
                self._pending.append(entries.of_event("gap", kind="not_written", lines=n_dropped))
            self._file.append([self._fields(said) for said in self._pending])
            self._pending = []
            self._must_sync_at = self._must_sync_at or time.monotonic() + self._sync_every_s
        self._sync()

    def _sync(self, *, now: bool = False) -> None:
        if self._must_sync_at is not None and (now or time.monotonic() >= self._must_sync_at):
            self._file.sync()
            self._must_sync_at = None

    def _fields(self, said: Said) -> Fields:
        return entries.of_request(said, with_client=self._with_client) if isinstance(said, RequestRecord) else said

    def _note(self, problem: str | None) -> None:
        if problem and not self.problem:
            log.error("the audit cannot be written", why=problem)
        if self.problem and not problem:
            log.info("the audit is written again")
        self.problem = problem


def _in_words(error: OSError | AuditError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
