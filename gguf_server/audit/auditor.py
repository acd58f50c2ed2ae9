"""Which requests the audit is told of, and whether new ones may come.

Told are all that carried a key and all that were refused for want of one. Of strangers, who could fill the disk with
refusals, the first of each minute are told one by one, the others by their number.
"""

from __future__ import annotations

from typing import Final

from gguf_server.audit import entries
from gguf_server.audit.writer import AuditWriter
from gguf_server.errors import AuditDown
from gguf_server.request_record import RequestRecord

STRANGERS_PER_MINUTE: Final = 120
_NOT_LET_IN: Final = frozenset({401, 403})
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Auditor:
    """An observer of requests, and their guard where `must_write`."""

    def __init__(self, writer: AuditWriter, *, must_write: bool) -> None:
        self._writer = writer
        self._must_write = must_write
        self._minute = 0
        self._n_strangers = 0

    def guard(self, record: RequestRecord) -> None:
        """Asked when it is known whose request it is. Raises `AuditDown` for what would not be audited.

        What only reads the server's own state goes on, so that an operator can see what is wrong.
        """
        if self._must_write and self._writer.problem is not None and record.method not in _READS:
            raise AuditDown("requests are not taken while they cannot be audited", retry_after_s=5)

    def observe(self, record: RequestRecord) -> None:
        minute = int(record.ended_at // 60)
        if minute != self._minute:
            self.close_minute()
            self._minute = minute
        if record.key_id is None and record.status in _NOT_LET_IN:
            self._n_strangers += 1
            if self._n_strangers > STRANGERS_PER_MINUTE:
                return
        elif record.key_id is None:
            return
        self._writer.say(record)

    def close_minute(self) -> None:
        if (n_more := self._n_strangers - STRANGERS_PER_MINUTE) > 0:
            self._writer.say(entries.of_event("more_refused", requests=n_more))
        self._n_strangers = 0
