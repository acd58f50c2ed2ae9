"""From records to the ledger, on disks that fail."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gguf_server.usage import recorder as recording
from gguf_server.usage.counts import Account, Counts
from gguf_server.usage.ledger import Ledger, LedgerError
from gguf_server.usage.recorder import UsageRecorder
from gguf_server.usage.report import Grouping, Question, Row, ask
from tests.gguf_server.usage.records import DAY, record

WAIT_S = 10.0
ALL = Question(None, None, (Grouping.DAY, Grouping.KEY))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.db"


class FragileLedger(Ledger):
    """On a disk that is full while `is_full`."""

    is_full = False
    failed = threading.Event()
    added = threading.Event()

    def add(self, counts: Mapping[Account, Counts]) -> None:
        if self.is_full:
            self.failed.set()
            raise LedgerError("usage.db: database or disk is full")
        super().add(counts)
        if counts:
            self.added.set()


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> type[FragileLedger]:
    class Fresh(FragileLedger):
        failed = threading.Event()
        added = threading.Event()

    monkeypatch.setattr(recording, "Ledger", Fresh)
    return Fresh


def only_row(path: Path) -> Row:
    (row,) = ask(path, ALL)
    return row


def test_what_was_observed_is_written_when_it_closes(path: Path) -> None:
    recorder = UsageRecorder(path, flush_s=3600.0)
    recorder.start()
    for _ in range(3):
        recorder.observe(record(n_prompt_tokens=10, n_completion_tokens=4, n_cached_tokens=8, elapsed_s=0.5))
    recorder.observe(record(key_id=None, status=401))
    recorder.close()
    row = only_row(path)
    assert (row.n_requests, row.n_prompt_tokens, row.n_completion_tokens, row.n_cached_tokens) == (3, 30, 12, 24)
    assert row.elapsed_s == 1.5


def test_it_is_written_while_the_server_runs(path: Path, fragile: type[FragileLedger]) -> None:
    recorder = UsageRecorder(path, flush_s=0.001)
    recorder.start()
    recorder.observe(record())
    assert fragile.added.wait(WAIT_S)
    assert only_row(path).n_requests == 1
    recorder.close()


def test_a_full_disk_is_told_once_and_costs_no_count(path: Path, fragile: type[FragileLedger]) -> None:
    fragile.is_full = True
    recorder = UsageRecorder(path, flush_s=0.001)
    with capture_logs() as logs:
        recorder.start()
        recorder.observe(record())
        for _ in range(3):
            fragile.failed.clear()
            assert fragile.failed.wait(WAIT_S)
        assert recorder.problem == "usage.db: database or disk is full"
        recorder.observe(record())
        fragile.is_full = False
        recorder.close()
    assert recorder.problem is None
    assert only_row(path).n_requests == 2
    events = [line["event"] for line in logs]
    assert events == ["usage cannot be written; it is kept in memory", "usage is written again"]


def test_counts_that_never_found_room_are_named_in_the_log(path: Path, fragile: type[FragileLedger]) -> None:
    fragile.is_full = True
    recorder = UsageRecorder(path, flush_s=3600.0)
    recorder.start()
    recorder.observe(record())
    with capture_logs() as logs:
        recorder.close()
    assert logs[-1] == {
        "event": "usage is lost",
        "requests": 1,
        "why": "usage.db: database or disk is full",
        "log_level": "error",
    }


def test_a_file_that_was_taken_away_is_begun_anew(path: Path, fragile: type[FragileLedger]) -> None:
    recorder = UsageRecorder(path, flush_s=0.001)
    recorder.start()
    recorder.observe(record())
    assert fragile.added.wait(WAIT_S)
    path.unlink()
    recorder.observe(record(key_id="k2"))
    recorder.close()
    assert only_row(path).group[1] == "k2"


def test_what_is_older_than_it_is_kept_goes(path: Path) -> None:
    today = int(datetime.now(UTC).timestamp() // 86_400)
    with closing(Ledger(path)) as ledger:
        ledger.add({Account(day, "k1", "demo", "m", "vllm"): Counts(1) for day in (DAY, today)})
    recorder = UsageRecorder(path, keep_days=30, flush_s=3600.0)
    recorder.start()
    recorder.close()
    assert only_row(path).group[0] == datetime.now(UTC).date().isoformat()
