"""Keys at rest, and as a running server sees them change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import structlog

from gguf_server import keys
from gguf_server.keys import KeyFileDamaged, KeyIdentity, KeyRing, KeysError

CREATE_FIVE = """
import sys
from pathlib import Path
from gguf_server import keys
for number in range(5):
    keys.create(Path(sys.argv[1]), f"{sys.argv[2]}-{number}")
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "keys.json"


def test_a_token_is_returned_once_and_only_its_digest_is_stored(path: Path) -> None:
    record, token = keys.create(path, "laptop")
    assert token.startswith("gsk-")
    assert len(token) == 4 + 43
    assert token not in path.read_text()
    assert keys.list_keys(path) == [record]


def test_the_file_and_its_directory_are_their_owners_alone(path: Path) -> None:
    keys.create(path, "laptop")
    keys.create(path, "phone")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {file.name for file in path.parent.iterdir()} == {"keys.json", "keys.json.lock"}


@pytest.mark.parametrize("by", ["id", "name"])
def test_a_key_is_revoked_by_id_or_name_and_stays_listed(path: Path, by: str) -> None:
    record, _ = keys.create(path, "laptop")
    kept, _ = keys.create(path, "phone")
    revoked = keys.revoke(path, getattr(record, by))
    assert revoked.revoked is not None
    assert keys.list_keys(path) == [revoked, kept]


def test_a_name_is_free_again_once_its_key_is_revoked(path: Path) -> None:
    first, _ = keys.create(path, "laptop")
    with pytest.raises(KeysError, match="already a key 'laptop'"):
        keys.create(path, "laptop")
    keys.revoke(path, "laptop")
    second, _ = keys.create(path, "laptop")
    assert keys.revoke(path, "laptop").id == second.id != first.id


def test_revoking_what_is_not_there_is_an_error(path: Path) -> None:
    with pytest.raises(KeysError, match="no active key has the id or name 'nobody'"):
        keys.revoke(path, "nobody")


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "\x1b[31m"])
def test_a_name_that_cannot_be_printed_is_refused(path: Path, name: str) -> None:
    with pytest.raises(KeysError, match="printable"):
        keys.create(path, name)


def test_processes_that_create_keys_at_once_lose_none(path: Path) -> None:
    commands = [[sys.executable, "-c", CREATE_FIVE, str(path), f"process-{number}"] for number in range(4)]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0, 0]
    names = {record.name for record in keys.list_keys(path)}
    assert names == {f"process-{process}-{number}" for process in range(4) for number in range(5)}


@pytest.mark.parametrize(
    "content",
    [b"", b"[", b"{}", b'[{"id": "a"}]', b'[{"id":"a","name":"b","sha256":"xyz","created":"now"}]', b"\xff"],
)
def test_a_damaged_file_is_an_error_and_is_left_as_it_is(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    for attempt in (
        lambda: keys.list_keys(path),
        lambda: keys.create(path, "x"),
        lambda: keys.revoke(path, "x"),
        lambda: KeyRing(path),
    ):
        with pytest.raises(KeyFileDamaged, match=r"keys\.json: damaged"):
            attempt()
    assert path.read_bytes() == content


def test_a_file_that_cannot_be_read_or_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeysError, match="file"):
        keys.create(tmp_path / "file" / "keys.json", "x")
    with pytest.raises(KeysError, match="directory"):
        keys.list_keys(tmp_path)


def test_a_failed_write_leaves_the_old_keys_and_no_litter(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, _ = keys.create(path, "laptop")
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(KeysError, match="No space left on device"):
        keys.create(path, "phone")
    assert keys.list_keys(path) == [record]
    assert {file.name for file in path.parent.iterdir()} == {"keys.json", "keys.json.lock"}


def test_the_default_file_is_in_the_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/someone")
    assert keys.default_path({}) == Path("/someone/.local/state/gguf-server/keys.json")
    assert keys.default_path({"XDG_STATE_HOME": "/state"}) == Path("/state/gguf-server/keys.json")


def test_a_list_of_tokens_is_split_at_commas() -> None:
    assert keys.tokens_in(" a, b,,a ,") == ("a", "b")
    assert keys.tokens_in("") == ()


def test_a_ring_knows_active_keys_and_no_others(path: Path) -> None:
    laptop, laptop_token = keys.create(path, "laptop")
    _, phone_token = keys.create(path, "phone")
    keys.revoke(path, "phone")
    ring = KeyRing(path, ["one", "two"])
    assert ring.identify(laptop_token) == KeyIdentity(laptop.id, "laptop")
    assert ring.identify(phone_token) is None
    assert ring.identify("one") == KeyIdentity("env-1", "env-1")
    assert ring.identify("two") == KeyIdentity("env-2", "env-2")
    for wrong in ("", "three", laptop.sha256, laptop_token[:-1], "khoá", "\udcff", "\ud800"):
        assert ring.identify(wrong) is None


def test_a_ring_notices_keys_that_come_and_go(path: Path) -> None:
    ring = KeyRing(path)
    assert not ring.has_keys
    record, token = keys.create(path, "laptop")
    assert ring.has_keys
    assert ring.identify(token) == KeyIdentity(record.id, "laptop")
    keys.revoke(path, "laptop")
    assert ring.identify(token) is None
    assert not ring.has_keys


def test_a_token_from_the_environment_is_a_key(path: Path) -> None:
    assert KeyRing(path, ["one"]).has_keys


def test_a_ring_tells_admins_from_users(path: Path) -> None:
    user, _ = keys.create(path, "laptop")
    ring = KeyRing(path, admin_tokens=["root"])
    assert ring.identify("root") == KeyIdentity("admin-env-1", "admin-env-1", "admin")
    assert (ring.has_keys, ring.has_admins) == (True, True)
    admin, token = keys.create(path, "operator", role="admin")
    assert KeyRing(path).identify(token) == KeyIdentity(admin.id, "operator", "admin")
    assert keys.list_keys(path) == [user, admin]
    keys.revoke(path, "laptop")
    assert (KeyRing(path).has_keys, KeyRing(path).has_admins) == (False, True)


def test_the_role_of_most_keys_is_not_written_down(path: Path) -> None:
    keys.create(path, "laptop")
    assert "role" not in path.read_text()


def test_a_ring_reads_the_file_only_when_it_changed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, token = keys.create(path, "laptop")
    reads = Mock(side_effect=keys.list_keys)
    monkeypatch.setattr(keys, "list_keys", reads)
    ring = KeyRing(path)
    assert all(ring.identify(token) for _ in range(5))
    assert reads.call_count == 1
    keys.create(path, "phone")
    reads.reset_mock()
    assert all(ring.identify(token) for _ in range(5))
    assert reads.call_count == 1


@pytest.mark.parametrize("how", ["damaged", "gone", "unreadable"])
def test_a_file_that_becomes_unusable_leaves_the_last_good_keys_and_one_warning(path: Path, how: str) -> None:
    _, token = keys.create(path, "laptop")
    ring = KeyRing(path)
    content = path.read_text()
    if how == "damaged":
        path.write_text("[")
    else:
        path.unlink()
    if how == "unreadable":
        path.mkdir()
    with structlog.testing.capture_logs() as logs:
        assert all(ring.identify(token) for _ in range(3))
        assert ring.has_keys
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("keys_file_unusable", "warning")]
    assert token not in str(logs)

    if how == "unreadable":
        path.rmdir()
    path.write_text(json.dumps(json.loads(content)[:0]))
    assert ring.identify(token) is None


def test_a_ring_warns_again_when_the_file_broke_again(path: Path) -> None:
    _, token = keys.create(path, "laptop")
    ring = KeyRing(path)
    content = path.read_text()
    with structlog.testing.capture_logs() as logs:
        for text in ("[", content, "[["):
            path.write_text(text)
            assert ring.identify(token)
    assert len(logs) == 2
