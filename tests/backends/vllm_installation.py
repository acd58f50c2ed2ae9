"""Installations of vLLM that consist of names only; to import one is an error."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

PLAIN = {"vllm": "0.32.0"}
ALL = {**PLAIN, "vllm-gguf-plugin": "0.0.5", "vllm-bnb-plugin": "0.0.3", "bitsandbytes": "0.50.2"}


def install(folder: Path, distributions: Mapping[str, str], *, with_package: bool = True) -> None:
    """Into `folder`, as pip would leave them there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, version in distributions.items():
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nVersion: no\n")
    if with_package:
        (folder / "vllm").mkdir()
        (folder / "vllm" / "__init__.py").write_text("raise RuntimeError('imported')")


def environment_at(root: Path, *, version: str = "3.11.7", system: bool = False) -> tuple[Path, Path]:
    """The interpreter and the site-packages of a virtual environment whose interpreter cannot be started."""
    site = root / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True)
    (root / "bin").mkdir()
    python = root / "bin" / "python"
    python.write_text("not to be started")
    included = str(system).lower()
    settings = (
        f"home = {root.parent / 'base' / 'bin'}\ninclude-system-site-packages = {included}\nversion = {version}\n"
    )
    (root / "pyvenv.cfg").write_text(settings)
    return python, site


def other_name_of_this_interpreter(folder: Path) -> str:
    """It is in no virtual environment, so it has to be asked."""
    path = folder / "python"
    path.symlink_to(sys.executable)
    return str(path)
