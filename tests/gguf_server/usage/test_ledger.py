"""The ledger's file: adding up, sharing, bringing forward, refusing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import pytest

from gguf_server.usage import ledger as ledgers
from gguf_server.usage.counts import Account, Counts, account_of, as_date
from gguf_server.usage.ledger import Ledger, LedgerError, PastUsage, first_day_kept
from gguf_server.usage.report import Grouping, Question, ask
from tests.gguf_server.usage.records import DAY, record

ALL = Question(None, None, (Grouping.KEY,))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "usage.db"


def account(key_id: str = "k1", day: int = DAY) -> Account:
    return Account(day, key_id, "demo", "m", "vllm")


def test_what_is_added_is_added_up_also_by_two_gateways(path: Path) -> None:
    with closing(Ledger(path)) as one, closing(Ledger(path)) as other:
        one.add({account(): Counts(1, 0, 0, 10, 5, 2, 0.5)})
        other.add({account(): Counts(2, 1, 1, 20, 7, 0, 1.0), account("k2"): Counts(1)})
    first, second = ask(path, ALL)
    assert (first.group, first.n_requests, first.n_errors, first.n_refused) == (("k1",), 3, 1, 1)
    assert (first.n_prompt_tokens, first.n_completion_tokens, first.n_cached_tokens) == (30, 12, 2)
    assert first.elapsed_s == 1.5
    assert second.group == ("k2",)
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_is_asked_while_it_is_open_elsewhere(path: Path) -> None:
    with closing(Ledger(path)) as writing:
        writing.add({account(): Counts(1)})
        assert ask(path, ALL)[0].n_requests == 1


def test_a_day_is_found_again_for_the_quotas_of_a_server_that_starts(path: Path) -> None:
    assert PastUsage(path).load(as_date(DAY)) == {}
    with closing(Ledger(path)) as ledger:
        ledger.add({account(): Counts(5, 1, 2, 100, 50, 0, 1.0), account(day=DAY - 1): Counts(9)})
        ledger.add({Account(DAY, "k1", "other", "", ""): Counts(1, 0, 1)})
    (of_key,) = PastUsage(path).load(as_date(DAY)).items()
    assert of_key == ("k1", (3, 150))


def test_old_days_are_removed(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.add({account(day=day): Counts(1) for day in (DAY - 2, DAY - 1, DAY)})
        ledger.remove_before(first_day_kept(as_date(DAY), 2))
    by_day = ask(path, Question(None, None, (Grouping.DAY,)))
    assert [row.group[0] for row in by_day] == [str(as_date(DAY - 1)), str(as_date(DAY))]


def test_an_older_file_is_brought_forward(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.add({account(): Counts(1)})
    later = (*ledgers.MIGRATIONS, "CREATE INDEX usage_by_key ON usage (key_id)")
    monkeypatch.setattr(ledgers, "MIGRATIONS", later)
    Ledger(path).close()
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
        assert db.execute("SELECT name FROM sqlite_master WHERE type = 'index'").fetchall() == [("usage_by_key",)]
    assert ask(path, ALL)[0].n_requests == 1


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Ledger(path).close()
    with monkeypatch.context() as patch:
        patch.setattr(ledgers, "MIGRATIONS", (*ledgers.MIGRATIONS, "CREATE TABLE more (a)", "no SQL"))
        with pytest.raises(LedgerError):
            Ledger(path)
    Ledger(path).close()


@pytest.mark.parametrize("use", [Ledger, lambda path: ask(path, ALL), lambda path: PastUsage(path).load(date.today())])
def test_a_file_of_a_newer_version_is_refused(path: Path, use: Callable[[Path], object]) -> None:
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(LedgerError, match="made by a newer gguf-server"):
        use(path)


def test_a_file_that_is_no_ledger_is_refused_and_kept(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"notes of somebody else\n" * 100)
    with pytest.raises(LedgerError, match="not a database"):
        Ledger(path)
    assert path.read_bytes().startswith(b"notes")


def test_questions_name_days_keys_and_groups(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        for day in range(3):
            ledger.add({account(key, DAY + day): Counts(1) for key in ("k1", "k2")})
    asked = as_date(DAY) + timedelta(days=1)
    question = Question(asked, asked, (Grouping.DAY, Grouping.KEY), ("k2", "k3"))
    (row,) = ask(path, question)
    assert (row.group, row.n_requests) == ((str(asked), "k2"), 1)


def test_only_requests_of_a_key_to_a_model_are_accounted_for() -> None:
    assert account_of(record()) == Account(DAY, "k1", "demo", "m", "vllm")
    assert account_of(record(key_id=None, status=401)) is None
    assert account_of(record(service=None)) is None
    status, action = record(), record()
    status.method = "GET"
    action.path = "/admin/services/{service}/drain"
    assert account_of(status) is None
    assert account_of(action) is None


def test_a_request_is_counted_as_answered_refused_or_failed() -> None:
    counts = Counts()
    for queued_s, status, error in (
        (0.0, 200, None),
        (None, 429, "queue_full"),
        (None, 503, "engine_not_ready"),
        (0.0, 499, None),
        (0.0, 500, "engine_failed"),
        (0.0, 200, "engine_failed"),
    ):
        counts.add(record(queued_s=queued_s, status=status, error=error))
    assert (counts.n_requests, counts.n_refused, counts.n_errors) == (6, 2, 2)
