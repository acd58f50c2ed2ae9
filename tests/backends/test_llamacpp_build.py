"""How the installed llama.cpp was built, as a child process tells it."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from backends.llamacpp_build import LlamaBuild, ask_build, build_from

CUDA_LINE = (
    "CUDA : ARCHS = 860,1200 | USE_GRAPHS = 1 | PEER_MAX_BATCH_SIZE = 128 | CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | "
)


def test_the_installed_build_is_described() -> None:
    build = ask_build()
    assert build.version == importlib.metadata.version("llama-cpp-python")
    assert build.error is None
    assert "CPU" in build.backends


def test_the_asking_process_never_imports_llama_cpp() -> None:
    code = (
        "import sys; from backends.llamacpp_build import ask_build; ask_build(); sys.exit('llama_cpp' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_backends_and_features_are_read_from_the_line_llama_cpp_prints() -> None:
    report = json.dumps({"version": "0.3.36", "system_info": CUDA_LINE, "can_offload": True})
    features = frozenset({"ARCHS", "USE_GRAPHS", "PEER_MAX_BATCH_SIZE", "SSE3", "AVX2"})
    assert build_from("0.3.36", 0, report, "") == LlamaBuild("0.3.36", frozenset({"CUDA", "CPU"}), features, True)


@pytest.mark.parametrize(
    ("exit_code", "printed", "complained", "error"),
    [
        (0, '{"error": "OSError: libcuda.so.1: cannot open"}', "", "OSError: libcuda.so.1: cannot open"),
        (-4, "", "", "killed by SIGILL"),
        (1, "", "Traceback\n  File\nValueError: odd\n\n", "ended with exit code 1: ValueError: odd"),
    ],
)
def test_a_library_that_cannot_be_loaded_is_an_error_in_words(
    exit_code: int, printed: str, complained: str, error: str
) -> None:
    assert build_from("0.3.36", exit_code, printed, complained) == LlamaBuild("0.3.36", error=error)


def test_an_interpreter_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert "No such file" in (ask_build(str(tmp_path / "python")).error or "")


def test_a_child_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o755)
    assert ask_build(str(python), timeout_s=0.05).error == "it is not loaded within 0.05 s"


def test_what_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert ask_build() == LlamaBuild(None)
