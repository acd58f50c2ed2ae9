"""The thread that writes: what is said reaches the file, or is counted, and the server knows."""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from gguf_server.audit import writer as writing
from gguf_server.audit.auditor import STRANGERS_PER_MINUTE, Auditor
from gguf_server.audit.chain import Fields
from gguf_server.audit.files import files_of, lines_of
from gguf_server.audit.head import read_head
from gguf_server.audit.log_file import LogFile, Rotation
from gguf_server.audit.verify import verify
from gguf_server.audit.writer import AuditWriter
from gguf_server.errors import AuditDown
from tests.gguf_server.audit.chains import KEYS, record

WAIT_S = 10.0


class FragileFile(LogFile):
    """A file on a disk that is full while `is_full`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, KEYS, Rotation(daily=False))
        self.is_full = False
        self.failed = threading.Event()
        self.wrote = threading.Event()

    def append(self, fields: Sequence[Fields]) -> None:
        if self.is_full:
            self.failed.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        super().append(fields)
        self.wrote.set()


@pytest.fixture
def file(tmp_path: Path) -> FragileFile:
    return FragileFile(tmp_path / "audit.jsonl")


def told(folder: Path) -> list[dict[str, object]]:
    audit = folder / "audit.jsonl"
    assert verify(KEYS.chain, lines_of(files_of(audit)), read_head(KEYS.head, audit)).is_sound
    return [orjson.loads(line.raw) for line in lines_of(files_of(audit))]


@pytest.mark.parametrize("sync_every_s", [0.0, 60.0])
def test_all_that_was_said_is_written_when_it_closes(tmp_path: Path, file: FragileFile, sync_every_s: float) -> None:
    writer = AuditWriter(file, sync_every_s=sync_every_s)
    writer.start()
    for number in range(2500):
        writer.say(record(status=200 + number % 3))
    writer.close()
    lines = told(tmp_path)
    assert [line["seq"] for line in lines] == list(range(1, 2501))
    assert [line["status"] for line in lines[:4]] == [200, 201, 202, 200]


def test_a_line_says_what_is_known_and_nothing_of_the_content(tmp_path: Path, file: FragileFile) -> None:
    writer = AuditWriter(file)
    writer.start()
    writer.say(
        record(
            client="192.0.2.7", model="m", engine="vllm", n_prompt_tokens=7,
            n_completion_tokens=0, n_dropped=2, n_failovers=1, ttft_s=0.25, prompt_hash="ab",
        )
    )  # fmt: skip
    writer.close()
    (line,) = told(tmp_path)
    assert {name: value for name, value in line.items() if name not in ("prev", "mac")} == {
        "seq": 1, "event": "request", "time": "2023-11-14T22:13:20.000+00:00", "request_id": "req-1", "key_id": "k1",
        "client": "192.0.2.7", "method": "POST", "route": "/v1/chat/completions", "service": "demo", "model": "m",
        "engine": "vllm", "status": 200, "prompt_tokens": 7, "completion_tokens": 0, "truncated": 2, "failovers": 1,
        "elapsed_s": 0.5, "ttft_s": 0.25, "prompt_hash": "ab",
    }  # fmt: skip


def test_addresses_are_left_out_where_they_are_not_wanted(tmp_path: Path, file: FragileFile) -> None:
    writer = AuditWriter(file, with_client=False)
    writer.start()
    writer.say(record(client="192.0.2.7"))
    writer.close()
    assert "client" not in told(tmp_path)[0]


def test_a_full_disk_refuses_new_work_until_there_is_room_and_loses_nothing(tmp_path: Path, file: FragileFile) -> None:
    writer = AuditWriter(file, retry_s=0.001)
    auditor = Auditor(writer, must_write=True)
    file.is_full = True
    with capture_logs() as logs:
        writer.start()
        auditor.observe(record())
        assert file.failed.wait(WAIT_S)
        _until(lambda: writer.problem is not None)
        with pytest.raises(AuditDown):
            auditor.guard(record())
        reading = record()
        reading.method = "GET"
        auditor.guard(reading)
        file.is_full = False
        assert file.wrote.wait(WAIT_S)
        _until(lambda: writer.problem is None)
        auditor.guard(record())
        writer.close()
    assert len(told(tmp_path)) == 1
    assert [line["event"] for line in logs] == ["the audit cannot be written", "the audit is written again"]


def test_where_a_warning_is_enough_nobody_is_refused(file: FragileFile) -> None:
    writer = AuditWriter(file)
    writer.problem = "full"
    Auditor(writer, must_write=False).guard(record())


def test_what_could_not_be_remembered_is_counted(
    tmp_path: Path, file: FragileFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "MOST_PENDING", 3)
    writer = AuditWriter(file)
    for _ in range(5):
        writer.say(record())
    writer.start()
    writer.close()
    lines = told(tmp_path)
    assert [line["event"] for line in lines] == ["request"] * 3 + ["gap"]
    assert (lines[3]["kind"], lines[3]["lines"]) == ("not_written", 2)


def test_what_is_lost_when_the_disk_stays_full_is_said_in_the_log(file: FragileFile) -> None:
    writer = AuditWriter(file)
    file.is_full = True
    writer.start()
    with capture_logs() as logs:
        writer.say(record())
        writer.close()
    assert {"lines of the audit are lost"} < {line["event"] for line in logs}


def test_strangers_are_told_one_by_one_up_to_a_limit_and_then_by_their_number(
    tmp_path: Path, file: FragileFile
) -> None:
    writer = AuditWriter(file)
    auditor = Auditor(writer, must_write=True)
    writer.start()
    for _ in range(STRANGERS_PER_MINUTE + 7):
        auditor.observe(record(key_id=None, status=401))
    auditor.observe(record(key_id=None, status=200))  # /health asks for no key
    auditor.close_minute()
    writer.close()
    lines = told(tmp_path)
    assert [line["event"] for line in lines] == ["request"] * STRANGERS_PER_MINUTE + ["more_refused"]
    assert lines[-1]["requests"] == 7


def _until(condition) -> None:  # type: ignore[no-untyped-def]
    """Of the other thread, which takes a moment from its last event to its next word."""
    waiting = threading.Event()
    for _ in range(int(WAIT_S / 0.001)):
        if condition():
            return
        waiting.wait(0.001)
    raise AssertionError("it did not come to that")
