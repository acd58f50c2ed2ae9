"""`gguf-server usage` and `gguf-server audit verify`, as people and programs read them."""

from __future__ import annotations

import csv
import io
import json
import os
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gguf_server import keys
from gguf_server.audit import secret
from gguf_server.audit.head import head_path
from gguf_server.audit.log_file import LogFile, Rotation
from gguf_server.cli import app
from gguf_server.usage.counts import Account, Counts
from gguf_server.usage.ledger import Ledger

runner = CliRunner()
TODAY = int(datetime.now(UTC).timestamp() // 86_400)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state directory, and nothing of the machine's own configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in list(os.environ):
        if name.startswith("GGUF_SERVER_"):
            monkeypatch.delenv(name)
    return tmp_path / "state" / "gguf-server"


def invoke(*arguments: str, status: int = 0) -> str:
    result = runner.invoke(app, arguments)
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture
def ward(state: Path) -> str:
    """The id of a key that has been used; env-1 has been as well, long ago too."""
    record, _ = keys.create(state / "keys.json", "ward 3")
    with closing(Ledger(state / "usage.db")) as ledger:
        ledger.add(
            {
                Account(TODAY, record.id, "qwen3", "qwen3-14b", "vllm"): Counts(10, 1, 2, 1000, 500, 300, 12.25),
                Account(TODAY, record.id, "gemma4", "", ""): Counts(1, 0, 1),
                Account(TODAY - 1, "env-1", "qwen3", "qwen3-14b", "llama.cpp"): Counts(2, 0, 0, 10, 20, 0, 1.0),
                Account(TODAY - 90, "env-1", "qwen3", "qwen3-14b", "vllm"): Counts(7),
            }
        )
    return record.id


@pytest.mark.usefixtures("ward")
def test_usage_is_a_table_of_the_last_days_with_names_and_a_total() -> None:
    lines = [line.split() for line in invoke("usage").splitlines()]
    assert lines[0] == ["KEY", "REQUESTS", "ERRORS", "REFUSED", "PROMPT", "COMPLETION", "CACHED", "SECONDS"]
    assert sorted(lines[1:3]) == [
        ["env-1", "2", "0", "0", "10", "20", "0", "1.0"],
        ["ward", "3", "11", "1", "3", "1000", "500", "300", "12.2"],
    ]
    assert lines[3] == ["TOTAL", "13", "1", "3", "1010", "520", "300", "13.2"]


def test_usage_is_asked_by_day_key_and_name(ward: str) -> None:
    answer = json.loads(invoke("usage", "--days", "100", "--by", "day", "--by", "key", "--key", "env-1", "--json"))
    assert [(row["key_name"], row["requests"]) for row in answer["rows"]] == [("env-1", 7), ("env-1", 2)]
    assert answer["total"]["requests"] == 9
    for wanted in (ward, "ward 3"):
        answer = json.loads(invoke("usage", "--by", "service", "--key", wanted, "--json"))
        assert [(row["service"], row["requests"]) for row in answer["rows"]] == [("gemma4", 1), ("qwen3", 10)]


@pytest.mark.usefixtures("ward")
def test_usage_has_a_first_and_a_last_day() -> None:
    yesterday = datetime.fromtimestamp((TODAY - 1) * 86_400, UTC).date().isoformat()
    answer = json.loads(invoke("usage", "--to", yesterday, "--json"))
    assert answer["total"]["requests"] == 9
    answer = json.loads(invoke("usage", "--from", yesterday, "--to", yesterday, "--json"))
    assert (answer["from"], answer["to"], answer["total"]["requests"]) == (yesterday, yesterday, 2)
    assert "TOTAL" in invoke("usage", "--from", "2001-01-01", "--to", "2001-01-02")


def test_usage_is_csv_for_a_spreadsheet(ward: str) -> None:
    rows = list(csv.DictReader(io.StringIO(invoke("usage", "--by", "model", "--by", "key", "--csv"))))
    assert {row["model"]: row["key_id"] for row in rows if row["key_name"] == "ward 3"} == {"": ward, "qwen3-14b": ward}
    assert {row["seconds"] for row in rows} == {"0.0", "12.25", "1.0"}


def test_usage_that_was_never_kept_is_said_so(state: Path) -> None:
    assert f"{state / 'usage.db'}: there is no usage yet" in invoke("usage", status=1)
    invoke("usage", "--json", "--csv", status=2)


@pytest.fixture
def audit(state: Path, tmp_path: Path) -> Path:
    """Three lines, two of them in a file that was put beside."""
    (tmp_path / "gguf-server.toml").write_text('[audit]\nfile = "audit.jsonl"\n[services.demo]\n')
    path = tmp_path / "audit.jsonl"
    file = LogFile(path, secret.make(state / "audit.key"), Rotation())
    file.open()
    for number in range(3):
        if number == 2:
            path.rename(tmp_path / "audit.jsonl.1")
        file.append([{"event": "request", "status": number}])
    file.sync()
    file.close()
    return path


@pytest.mark.usefixtures("audit")
def test_an_audit_that_is_sound_is_said_to_be() -> None:
    assert invoke("audit", "verify") == "sound: 3 lines in 2 files, the last is number 3\n"


def test_a_line_that_was_altered_is_named_with_status_1(audit: Path) -> None:
    rotated = audit.with_name("audit.jsonl.1")
    rotated.write_bytes(rotated.read_bytes().replace(b'"status":1', b'"status":9'))
    printed = invoke("audit", "verify", status=1)
    assert "audit.jsonl.1:2: altered" in printed
    assert "NOT SOUND, 1 faults" in printed


@pytest.mark.parametrize("gone", ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.head"])
def test_a_file_that_is_gone_is_missed(audit: Path, gone: str) -> None:
    audit.with_name(gone).unlink()
    assert "FAULT" in invoke("audit", "verify", status=1)


def test_files_are_checked_by_name_also_in_part(audit: Path) -> None:
    invoke("audit", "verify", "audit.jsonl.1", "audit.jsonl")
    invoke("audit", "verify", "audit.jsonl.1", status=1)
    printed = invoke("audit", "verify", "--partial", "audit.jsonl.1")
    assert "note: there is no head file" in printed
    assert "begins with line 3" in invoke("audit", "verify", "--partial", str(audit))


def test_a_changed_head_is_named(audit: Path) -> None:
    head_path(audit).write_bytes(b"x" + head_path(audit).read_bytes())
    assert "audit.jsonl.head: not as it was written" in invoke("audit", "verify", status=1)


@pytest.mark.usefixtures("audit")
def test_what_is_needed_to_verify_is_said(state: Path) -> None:
    assert "no such.jsonl" in invoke("audit", "verify", "no such.jsonl", status=1)
    (state / "audit.key").chmod(0o644)
    assert "chmod 600" in invoke("audit", "verify", status=1)
    (state / "audit.key").unlink()
    assert "the audit's key is not there" in invoke("audit", "verify", status=1)
    Path("gguf-server.toml").unlink()
    assert "no audit is configured" in invoke("audit", "verify", status=2)
