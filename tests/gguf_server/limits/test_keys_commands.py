"""Limits on the command line and in the key file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gguf_server import keys
from gguf_server.cli import app
from gguf_server.commands.key_limits import NoSuchTime, expiry
from gguf_server.keys import KeyFileDamaged
from gguf_server.limits.policy import KeyLimits, Priority

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
FILE = Path("keys.json")

runner = CliRunner()


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def invoke(*arguments: str, status: int = 0) -> tuple[str, str]:
    result = runner.invoke(app, ["keys", *arguments, "--keys-file", str(FILE)])
    assert result.exit_code == status, result.output
    return result.stdout, result.stderr


def limits_of(name: str) -> KeyLimits | None:
    (found,) = [record.limits for record in keys.list_keys(FILE) if record.name == name]
    return found


def test_a_key_is_created_with_limits() -> None:
    invoke(
        "create", "ward", "--requests-per-minute", "60", "--tokens-per-minute", "20000", "--requests-per-day", "5000",
        "--tokens-per-day", "1000000", "--max-concurrent", "4", "--max-tokens", "2048", "--service", "qwen3",
        "--service", "gemma4", "--expires", "2027-01-01", "--priority", "high",
    )  # fmt: skip
    assert limits_of("ward") == KeyLimits(
        requests_per_minute=60,
        tokens_per_minute=20_000,
        requests_per_day=5000,
        tokens_per_day=1_000_000,
        max_concurrent=4,
        max_tokens=2048,
        services=("qwen3", "gemma4"),
        expires="2027-01-01T00:00:00+00:00",
        priority=Priority.HIGH,
    )


def test_limits_are_changed_one_by_one_lifted_and_cleared() -> None:
    invoke("create", "batch", "--requests-per-minute", "60", "--service", "qwen3", "--priority", "low")
    invoke("limit", "batch", "--requests-per-minute", "5", "--expires", "2099-01-01")
    assert limits_of("batch") == KeyLimits(
        requests_per_minute=5, services=("qwen3",), priority=Priority.LOW, expires="2099-01-01T00:00:00+00:00"
    )
    invoke("limit", "batch", "--requests-per-minute", "0", "--service", "all", "--expires", "never")
    assert limits_of("batch") == KeyLimits(requests_per_minute=0, priority=Priority.LOW)
    _, told = invoke("limit", "batch", "--clear", "--max-tokens", "10")
    assert limits_of("batch") == KeyLimits(max_tokens=10)
    assert told.endswith(": 10 max_tokens.\n")
    invoke("limit", "batch", "--clear")
    assert limits_of("batch") is None


def test_limits_are_listed() -> None:
    invoke("create", "free")
    invoke("create", "ward", "--tokens-per-day", "9", "--service", "qwen3", "--expires", "2020-01-01")
    listed, _ = invoke("list")
    assert listed.splitlines()[1].endswith("free")
    assert listed.splitlines()[2].endswith("ward  (9 tokens a day, only qwen3, expired 2020-01-01T00:00:00+00:00)")
    shown = json.loads(invoke("list", "--json")[0])
    assert [entry.get("limits") for entry in shown] == [
        None,
        {"tokens_per_day": 9, "services": ["qwen3"], "expires": "2020-01-01T00:00:00+00:00"},
    ]
    assert "sha256" not in shown[0]


def test_an_entry_without_limits_is_written_as_it_always_was() -> None:
    invoke("create", "plain")
    invoke("create", "other", "--max-tokens", "3")
    invoke("limit", "other", "--clear")
    assert [list(entry) for entry in json.loads(FILE.read_text())] == [
        ["id", "name", "sha256", "created", "revoked"]
    ] * 2


def test_a_misspelt_service_is_noted_and_nothing_to_change_is_an_error() -> None:
    _, noted = invoke("create", "ward", "--service", "qwen33")
    assert "Note: there is no service 'qwen33'" in noted
    assert "Note" not in invoke("limit", "ward", "--service", "qwen3")[1]
    invoke("limit", "ward", status=2)
    invoke("limit", "nobody", "--clear", status=1)
    assert "is no time" in invoke("create", "x", "--expires", "soon", status=2)[1]
    assert [record.name for record in keys.list_keys(FILE)] == ["ward"]


@pytest.mark.parametrize(
    "limits", [{"requests_per_minut": 1}, {"max_tokens": -1}, {"expires": "2027-01-01"}, {"services": "a"}]
)
def test_limits_that_nobody_understands_make_the_file_damaged(limits: dict[str, object]) -> None:
    invoke("create", "ward")
    entries = json.loads(FILE.read_text())
    FILE.write_text(json.dumps([{**entries[0], "limits": limits}]))
    with pytest.raises(KeyFileDamaged, match=r"0\.limits"):
        keys.list_keys(FILE)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("2027-01-01", "2027-01-01T00:00:00+00:00"),
        ("2027-01-01T08:00+07:00", "2027-01-01T01:00:00+00:00"),
        ("90d", "2027-02-22T12:00:00+00:00"),
        ("12h", "2026-11-25T00:00:00+00:00"),
        ("never", None),
    ],
)
def test_an_end_is_a_day_a_time_or_a_span(text: str, means: str | None) -> None:
    assert expiry(text, NOW) == means


@pytest.mark.parametrize("text", ["", "soon", "-1d", "9999999d", "2027-13-01", "90"])
def test_anything_else_is_no_end(text: str) -> None:
    with pytest.raises(NoSuchTime, match="write a day"):
        expiry(text, NOW)
