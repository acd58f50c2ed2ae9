"""The command line: what it prints where, and with which exit status it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

import gguf_server
from gguf_server import cli, config, keys
from gguf_server.cli import app
from gguf_server.settings import Settings

SERVER_THAT_ONLY_LOGS = """
import logging, sys, types
import structlog
import gguf_server
from gguf_server.cli import main

def serve(settings, source):
    structlog.get_logger("ours").info("ready", model="Tiếng Việt")
    structlog.get_logger("ours").debug("unheard")
    logging.getLogger("theirs").warning("slow %d", 3)
    try:
        raise ValueError("broke")
    except ValueError:
        structlog.get_logger("ours").exception("failed")
    return 3

gguf_server.run = sys.modules["gguf_server.run"] = types.SimpleNamespace(serve=serve)
main()
"""

runner = CliRunner()


@pytest.fixture(autouse=True)
def _on_an_untouched_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in list(os.environ):
        if name.startswith("GGUF_SERVER_"):
            monkeypatch.delenv(name)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What `gguf_server.run.serve` was called with; it answers 7. Logging stays as the tests have it."""
    calls: list[Settings] = []

    def serve(settings: Settings, _source: object) -> int:
        calls.append(settings)
        return 7

    fake: Any = ModuleType("gguf_server.run")
    fake.serve = serve
    monkeypatch.setitem(sys.modules, "gguf_server.run", fake)
    monkeypatch.setattr(gguf_server, "run", fake, raising=False)
    monkeypatch.setattr(cli, "set_up_logging", lambda server: None)
    return calls


def invoke(*arguments: str, status: int = 0) -> tuple[str, str]:
    result = runner.invoke(app, arguments)
    assert result.exit_code == status, result.output
    return result.stdout, result.stderr


def test_serve_runs_the_demo_and_ends_with_the_status_of_the_server(served: list[Settings]) -> None:
    invoke("serve", status=7)
    assert [list(settings.services) for settings in served] == [["demo"]]


def test_serve_takes_presets_host_and_port(served: list[Settings]) -> None:
    invoke("serve", "--preset", "qwen3", "--preset", "gemma4", "--host", "0.0.0.0", "--port", "9", status=7)
    (settings,) = served
    assert list(settings.services) == ["qwen3", "gemma4"]
    assert (settings.server.host, settings.server.port) == ("0.0.0.0", 9)


@pytest.mark.parametrize("command", [["serve"], ["config", "check"], ["config", "show"], ["keys", "list"]])
def test_configuration_problems_are_lines_on_stderr_and_status_2(command: list[str]) -> None:
    Path("c.toml").write_text("[server]\nprot = 1\n[services.qwen3]\nport = -1\n")
    stdout, stderr = invoke(*command, "--config", "c.toml", status=2)
    assert stdout == ""
    assert sorted(stderr.splitlines()) == [
        "server.prot: unknown key; did you mean port?",
        "services.qwen3.port: Input should be greater than or equal to 0",
    ]


def test_a_good_configuration_is_summed_up_in_one_line() -> None:
    assert invoke("config", "check", "--preset", "qwen3")[0] == "ok: qwen3 on 127.0.0.1:8040\n"


@pytest.mark.parametrize("names", [("demo", "gemma4", "qwen2.5", "qwen3"), ("gemma4-qat", "qwen3-awq")])
def test_settings_shown_as_toml_are_a_file_that_means_the_same(names: tuple[str, ...]) -> None:
    presets = [argument for name in names for argument in ("--preset", name)]
    stdout, _ = invoke("config", "show", *presets)
    Path("shown.toml").write_text(stdout, encoding="utf-8")
    assert config.load(Path("shown.toml"), environ={}) == config.load(presets=names, environ={})


def test_settings_are_shown_as_json() -> None:
    stdout, _ = invoke("config", "show", "--format", "json", "--preset", "gemma4")
    assert Settings.model_validate_json(stdout) == config.load(presets=["gemma4"], environ={})


def test_the_schema_is_that_of_the_settings() -> None:
    assert json.loads(invoke("config", "schema")[0]) == Settings.model_json_schema()


def test_a_key_can_be_created_listed_and_revoked() -> None:
    token, explanation = invoke("keys", "create", "laptop")
    ring = keys.KeyRing(keys.default_path())
    identity = ring.identify(token.removesuffix("\n"))
    assert identity is not None
    assert token.strip() not in explanation
    listed, _ = invoke("keys", "list")
    assert identity.id in listed
    assert "laptop" in listed
    assert token.strip() not in listed
    invoke("keys", "revoke", identity.id)
    assert not ring.has_keys


def test_keys_go_to_the_file_that_option_or_configuration_names() -> None:
    Path("c.toml").write_text('[server]\nkeys_file = "configured.json"\n[services.demo]\n')
    invoke("keys", "create", "a", "--config", "c.toml")
    invoke("keys", "create", "b", "--config", "c.toml", "--keys-file", "named.json")
    assert [record.name for record in keys.list_keys(Path("configured.json"))] == ["a"]
    assert [record.name for record in keys.list_keys(Path("named.json"))] == ["b"]


def test_an_empty_list_of_keys_is_said_on_stderr() -> None:
    stdout, stderr = invoke("keys", "list")
    assert stdout == ""
    assert stderr.startswith("No keys in ")


def test_a_damaged_key_file_is_one_line_on_stderr_and_status_1() -> None:
    Path("keys.json").write_text("[")
    for command in (["list"], ["create", "x"], ["revoke", "x"]):
        stdout, stderr = invoke("keys", *command, "--keys-file", "keys.json", status=1)
        assert stdout == ""
        assert stderr.startswith("keys.json: damaged")
        assert len(stderr.splitlines()) == 1


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(gguf_server.__file__).parent.parent
    environ = {**os.environ, "PYTHONPATH": str(root), "PYTHONWARNINGS": "error", "PYTHONUTF8": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environ, capture_output=True, encoding="utf-8", timeout=60, check=False)


def run_program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "gguf_server", *arguments)


def test_the_token_alone_is_on_the_standard_output_of_the_program() -> None:
    done = run_program("keys", "create", "laptop")
    assert done.returncode == 0, done.stderr
    assert keys.KeyRing(keys.default_path()).identify(done.stdout.removesuffix("\n"))


def test_the_program_reports_a_bad_configuration_without_a_traceback() -> None:
    Path("gguf-server.toml").write_text("[server\n")
    done = run_program("config", "check")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gguf-server.toml: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_program_shows_what_the_environment_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUF_SERVER_SERVER__PORT", "9000")
    done = run_program("config", "show")
    assert tomllib.loads(done.stdout)["server"]["port"] == 9000


def test_the_log_is_one_json_object_a_line_away_from_a_terminal() -> None:
    done = run_python("-c", SERVER_THAT_ONLY_LOGS, "serve")
    assert (done.returncode, done.stdout) == (3, "")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("ready", "info"),
        ("theirs: slow %d", "warning"),
        ("failed", "error"),
    ]
    assert lines[0]["model"] == "Tiếng Việt"
    assert lines[2]["kind"] == "ValueError"
    assert lines[2]["place"][0].endswith("in serve")
    assert "broke" not in done.stderr


def test_the_log_is_for_people_where_the_configuration_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUF_SERVER_SERVER__LOG_FORMAT", "console")
    done = run_python("-c", SERVER_THAT_ONLY_LOGS, "serve")
    assert "ready" in done.stderr.splitlines()[0]
    assert not done.stderr.startswith("{")
