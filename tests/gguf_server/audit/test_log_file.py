"""Adding to an audit whose file was torn, moved, cut or changed in the meantime."""

from __future__ import annotations

import errno
import gzip
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_server.audit import log_file
from gguf_server.audit.files import files_of, in_order, lines_of
from gguf_server.audit.head import head_path, read_head
from gguf_server.audit.log_file import LogFile, Rotation
from gguf_server.audit.secret import AuditError
from gguf_server.audit.verify import Verdict, verify
from tests.gguf_server.audit.chains import KEYS, OTHER_KEYS

NEVER = Rotation(daily=False)


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@contextmanager
def opened(audit: Path, rotation: Rotation = NEVER) -> Iterator[LogFile]:
    file = LogFile(audit, KEYS, rotation)
    file.open()
    try:
        yield file
    finally:
        file.close()


def write(audit: Path, *names: str, rotation: Rotation = NEVER) -> None:
    with opened(audit, rotation) as file:
        for name in names:
            file.append([{"event": "request", "name": name}])
        file.sync()


def verdict_on(audit: Path) -> Verdict:
    return verify(KEYS.chain, lines_of(files_of(audit)), read_head(KEYS.head, audit))


def told(audit: Path) -> list[Any]:
    """The names of requests, and the kinds of gaps."""
    said = [orjson.loads(line.raw) for line in lines_of(files_of(audit))]
    return [one.get("name") or one["kind"] for one in said]


def test_a_chain_goes_on_over_restarts(audit: Path) -> None:
    write(audit, "a", "b")
    write(audit, "c")
    assert told(audit) == ["a", "b", "c"]
    assert verdict_on(audit).is_sound
    assert audit.stat().st_mode & 0o777 == 0o600


def test_two_servers_cannot_write_one_audit(audit: Path) -> None:
    with opened(audit), pytest.raises(AuditError, match="another server writes this audit"), opened(audit):
        pass
    write(audit, "a")


def test_a_line_torn_by_a_crash_is_kept_aside_and_told(audit: Path) -> None:
    write(audit, "a")
    with audit.open("ab") as file:
        file.write(b'{"seq":2,"ev')
    assert verdict_on(audit).is_sound
    write(audit, "b")
    assert told(audit) == ["a", "torn_line", "b"]
    verdict = verdict_on(audit)
    assert verdict.is_sound
    assert "torn line" in str(verdict.notes[0])
    (aside,) = audit.parent.glob("audit.jsonl.torn-*")
    assert aside.read_bytes() == b'{"seq":2,"ev'


def test_lines_beyond_the_head_are_gone_on_from(audit: Path) -> None:
    """A crash between the lines and the head."""
    write(audit, "a")
    with opened(audit) as file:
        file.append([{"event": "request", "name": "b"}])
    write(audit, "c")
    assert told(audit) == ["a", "b", "c"]
    assert verdict_on(audit).is_sound


def test_lines_that_were_cut_off_while_no_server_ran_stay_missed(audit: Path) -> None:
    write(audit, "a", "b", "c")
    lines = audit.read_bytes().splitlines(keepends=True)
    audit.write_bytes(b"".join(lines[:1]))
    assert not verdict_on(audit).is_sound
    write(audit, "d")
    assert told(audit) == ["a", "lines_missing", "d"]
    assert "2 of lines 2 to 3 missing" in " ".join(map(str, verdict_on(audit).faults))


def test_a_head_that_was_taken_away_stays_missed(audit: Path) -> None:
    write(audit, "a", "b", "c")
    lines = audit.read_bytes().splitlines(keepends=True)
    audit.write_bytes(b"".join(lines[:1]))
    head_path(audit).unlink()
    write(audit, "d")
    assert told(audit) == ["a", "head_missing", "d"]
    assert not verdict_on(audit).is_sound


def test_a_head_that_was_changed_stays_missed(audit: Path) -> None:
    write(audit, "a")
    head_path(audit).write_bytes(head_path(audit).read_bytes().replace(b'"seq":1', b'"seq":0'))
    write(audit, "b")
    assert told(audit) == ["a", "head_damaged", "b"]


def test_an_altered_last_line_does_not_stop_the_chain(audit: Path) -> None:
    write(audit, "a", "b")
    audit.write_bytes(audit.read_bytes().replace(b'"name":"b"', b'"name":"x"'))
    write(audit, "c")
    assert told(audit) == ["a", "x", "last_line_altered", "c"]
    assert not verdict_on(audit).is_sound


def test_a_file_of_another_key_is_left_alone(audit: Path) -> None:
    write(audit, "a")
    before = audit.read_bytes(), head_path(audit).read_bytes()
    with pytest.raises(AuditError, match="not an audit of this key"):
        LogFile(audit, OTHER_KEYS, NEVER).open()
    assert (audit.read_bytes(), head_path(audit).read_bytes()) == before


@pytest.mark.parametrize("is_made_anew", [True, False])
def test_a_file_that_logrotate_renamed_is_noticed(audit: Path, is_made_anew: bool) -> None:
    with opened(audit) as file:
        file.append([{"event": "request", "name": "a"}])
        audit.rename(audit.with_name("audit.jsonl.1"))
        if is_made_anew:
            audit.touch()
        file.append([{"event": "request", "name": "b"}])
        file.sync()
    assert len(audit.read_bytes().splitlines()) == 1
    assert told(audit) == ["a", "b"]
    assert verdict_on(audit).is_sound


def test_a_file_that_logrotate_packed_while_no_server_ran_is_gone_on_from(audit: Path) -> None:
    write(audit, "a", "b")
    audit.with_name("audit.jsonl.1.gz").write_bytes(gzip.compress(audit.read_bytes()))
    audit.unlink()
    write(audit, "c")
    assert told(audit) == ["a", "b", "c"]
    assert verdict_on(audit).is_sound


def test_after_a_lost_head_the_files_beside_are_gone_on_from(audit: Path) -> None:
    write(audit, "a", "b")
    audit.rename(audit.with_name("audit.jsonl-20261124"))
    head_path(audit).unlink()
    write(audit, "c")
    assert told(audit) == ["a", "b", "head_missing", "c"]


@pytest.mark.parametrize("change", [b"", b"more\n", b"more"])
def test_a_file_that_is_changed_while_a_server_writes_it_is_told(audit: Path, change: bytes) -> None:
    with opened(audit) as file:
        file.append([{"event": "request", "name": "a"}])
        audit.write_bytes(audit.read_bytes() + change if change else b"")
        file.append([{"event": "request", "name": "b"}])
        file.sync()
    verdict = verdict_on(audit)
    assert not verdict.is_sound
    assert any("file changed" in str(fault) for fault in verdict.faults)
    assert verdict.last.seq >= 3


def test_a_full_file_is_put_beside(audit: Path) -> None:
    write(audit, *"abcde", rotation=Rotation(daily=False, max_bytes=300))
    assert len(files_of(audit)) > 2
    assert told(audit) == list("abcde")
    assert verdict_on(audit).is_sound
    for path in files_of(audit):
        path.rename(path.with_name(path.name + ".moved"))
    assert in_order(audit.parent.glob("*.moved"))[0].read_bytes().startswith(b'{"seq":1,')


def test_at_midnight_the_file_is_put_beside_under_its_day(audit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    write(audit, "a")
    os.utime(audit, (yesterday.timestamp(), yesterday.timestamp()))
    write(audit, "b", rotation=Rotation(daily=True))
    rotated, current = files_of(audit)
    assert rotated.name == f"audit.jsonl.{yesterday:%Y-%m-%d}.000000001"
    assert current == audit
    assert verdict_on(audit).is_sound


def test_a_full_disk_leaves_no_torn_line(audit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(descriptor: int, block: bytes) -> None:
        os.write(descriptor, block[: len(block) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(audit) as file:
        file.append([{"event": "request", "name": "a"}])
        with monkeypatch.context() as disk:
            disk.setattr(log_file, "_write", half)
            with pytest.raises(OSError, match="No space"):
                file.append([{"event": "request", "name": "b"}])
        file.append([{"event": "request", "name": "b"}])
        file.sync()
    assert told(audit) == ["a", "b"]
    assert verdict_on(audit).is_sound


@given(st.lists(st.sampled_from(["append", "sync", "restart", "crash", "tear", "rename", "rename while stopped"])))
@settings(max_examples=40)
def test_whatever_happens_that_nobody_meant_harm_with_the_chain_is_sound(events: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, patch.object(os, "fsync"):
        audit = Path(folder) / "audit.jsonl"
        file = LogFile(audit, KEYS, Rotation(daily=False, max_bytes=900))
        file.open()
        names = []
        for number, event in enumerate(events):
            if event == "append":
                names.append(str(number))
                file.append([{"event": "request", "name": names[-1]}])
            elif event == "sync":
                file.sync()
            elif event == "rename" and audit.exists():
                audit.rename(f"{audit}.{number}")
            else:
                if event == "restart":
                    file.sync()
                file.close()
                if event == "tear":
                    audit.write_bytes((audit.read_bytes() if audit.exists() else b"") + b'{"seq":')
                if event == "rename while stopped" and audit.exists():
                    audit.rename(f"{audit}.{number}")
                file = LogFile(audit, KEYS, Rotation(daily=False, max_bytes=900))
                file.open()
        file.append([{"event": "request", "name": "end"}])
        file.sync()
        file.close()
        assert [name for name in told(audit) if name != "torn_line"] == [*names, "end"]
        assert verdict_on(audit).faults == []
