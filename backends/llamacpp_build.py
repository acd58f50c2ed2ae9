"""Which llama.cpp the worker would load, asked of a child process: here it is never imported."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Final

from backends.process import exit_in_words

_LIMIT_S: Final = 60.0  # the first time on a slow disk
_DISTRIBUTION: Final = "llama-cpp-python"


@dataclass(frozen=True, slots=True)
class LlamaBuild:
    """`version` None: not installed. `error`: it is, and cannot be loaded.

    `backends` are what it can compute on, by llama.cpp's names (`CPU`, `CUDA`); `features` what it was compiled to use
    of the processor. `can_offload`: it sees a card as well.
    """

    version: str | None
    backends: frozenset[str] = frozenset()
    features: frozenset[str] = frozenset()
    can_offload: bool = False
    error: str | None = None


def ask_build(python: str = sys.executable, *, timeout_s: float = _LIMIT_S) -> LlamaBuild:
    """Blocks for a second or less."""
    try:
        version = importlib.metadata.version(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return LlamaBuild(None)
    command = [python, "-m", "backends.llamacpp.build_report"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return LlamaBuild(version, error=f"it is not loaded within {timeout_s:g} s")
    except OSError as error:
        return LlamaBuild(version, error=str(error))
    return build_from(version, asked.returncode, asked.stdout, asked.stderr)


def build_from(version: str, exit_code: int, printed: str, complained: str) -> LlamaBuild:
    """What the child said, or how it ended."""
    try:
        report = json.loads(printed)
    except ValueError:
        return LlamaBuild(version, error=_end_in_words(exit_code, complained))
    if "error" in report:
        return LlamaBuild(version, error=report["error"])
    return LlamaBuild(report["version"], *_compiled_for(report["system_info"]), can_offload=report["can_offload"])


def _compiled_for(system_info: str) -> tuple[frozenset[str], frozenset[str]]:
    """Backends, and features that are on."""
    backends = frozenset(re.findall(r"(\w+) : ", system_info))
    features: list[tuple[str, Any]] = re.findall(r"(\w+) = (\d+)", system_info)
    return backends, frozenset(name for name, value in features if value != "0")


def _end_in_words(exit_code: int, complained: str) -> str:
    last_line = next((line.strip() for line in reversed(complained.splitlines()) if line.strip()), "")
    return ": ".join(filter(None, (exit_in_words(exit_code), last_line[:300])))
