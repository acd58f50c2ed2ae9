"""The systemd unit: accepted by systemd itself, closed as far as a GPU service can be, and true to the program."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gguf_server.keys import default_path
from gguf_server.settings import Settings
from tests.operating.program import OPERATING, command_exists

SYSTEMD = OPERATING / "systemd"
UNIT = SYSTEMD / "gguf-server.service"
MOST_EXPOSED = 2.0
"""Of 10, by `systemd-analyze security`; a unit that says nothing has 9.6."""
STOPPING_S = 30.0  # last words, listeners, and engines that have to be killed

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed: the unit is not checked by it"
)


def values(name: str, path: Path = UNIT) -> list[str]:
    """Of a directive, in the order of the file."""
    return re.findall(rf"^{name}=(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)


def value(name: str) -> str:
    (only,) = values(name)
    return only


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system in which the unit, its drop-ins and the programs that it starts are installed."""
    for line in values("Exec[A-Za-z]+"):
        program = tmp_path / line.lstrip("-+").split()[0].lstrip("/")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.touch(mode=0o755)
    units = tmp_path / "etc" / "systemd" / "system"
    drop_ins = units / "gguf-server.service.d"
    drop_ins.mkdir(parents=True)
    shutil.copy(UNIT, units)
    for drop_in in SYSTEMD.glob("*.conf"):
        shutil.copy(drop_in, drop_ins)
    (tmp_path / "lib" / "systemd").mkdir(parents=True)
    (tmp_path / "lib" / "systemd" / "system").symlink_to("/lib/systemd/system")
    return tmp_path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = ("systemd-analyze", *arguments)
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


@needs_systemd
def test_systemd_accepts_the_unit_and_its_drop_ins(root: Path) -> None:
    said = analyze("verify", f"--root={root}", "--man=no", UNIT.name)
    assert "gguf-server" not in said.stderr
    assert said.returncode == 0, said.stderr


@needs_systemd
def test_a_misspelt_directive_would_be_told(root: Path) -> None:
    (root / "etc/systemd/system/gguf-server.service.d/wrong.conf").write_text("[Service]\nProtectSytem=strict\n")
    assert "ProtectSytem" in analyze("verify", f"--root={root}", "--man=no", UNIT.name).stderr


@needs_systemd
def test_the_unit_is_exposed_to_little() -> None:
    threshold = f"--threshold={10 * MOST_EXPOSED:g}"
    said = analyze("security", "--offline=true", "--no-pager", threshold, str(UNIT))
    assert said.returncode == 0, said.stdout


@needs_systemd
@pytest.mark.skipif(os.geteuid() != 0, reason="not root: users and folders cannot be made, not even in a folder")
def test_user_and_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for kind in ("sysusers", "tmpfiles"):
        folder = tmp_path / "usr" / "lib" / f"{kind}.d"
        folder.mkdir(parents=True)
        shutil.copy(SYSTEMD / f"gguf-server.{kind}", folder / "gguf-server.conf")
        command = [f"systemd-{kind}", f"--root={tmp_path}", *(["--create"] if kind == "tmpfiles" else [])]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert said.returncode == 0, said.stderr
    assert f"\n{value('User')}:" in "\n" + (tmp_path / "etc" / "passwd").read_text()
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("etc/gguf-server", "var/lib/gguf-server")}
    assert modes == {"etc/gguf-server": 0o755, "var/lib/gguf-server": int(value("StateDirectoryMode"), 8)}


def test_every_command_of_the_unit_exists() -> None:
    lines = [line for line in values("ExecStart") + values("ExecStartPre") if "/gguf-server " in line]
    assert len(lines) == 2
    for line in lines:
        assert command_exists(*line.split()[1:])


def test_stopping_has_time_for_the_answers_that_run() -> None:
    """A longer drain_s asks systemd for more time by itself."""
    assert float(value("TimeoutStopSec")) >= Settings().server.drain_s + STOPPING_S
    assert value("KillMode") == "mixed"


def test_the_keys_are_where_the_service_may_write() -> None:
    environ = dict(line.split("=", 1) for line in values("Environment"))
    assert default_path(environ) == Path("/var/lib") / value("StateDirectory") / "keys.json"
    assert environ["XDG_RUNTIME_DIR"] == f"/run/{value('RuntimeDirectory')}"
    assert environ["HF_HOME"].startswith(f"/var/cache/{value('CacheDirectory')}/")


def test_no_file_of_the_unit_holds_a_secret_or_a_users_home() -> None:
    for path in SYSTEMD.iterdir():
        assert not re.search(r"gsk-|hf_[A-Za-z]{8}|/home/|/root/", path.read_text(encoding="utf-8")), path


def test_the_user_owns_what_it_writes() -> None:
    users = (SYSTEMD / "gguf-server.sysusers").read_text(encoding="utf-8")
    assert f"\nu {value('User')} " in users
    folders = (SYSTEMD / "gguf-server.tmpfiles").read_text(encoding="utf-8")
    assert f"/var/lib/{value('StateDirectory')}" in folders
