"""What some tests take from npm, installed beside them the first time."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def install(folder: Path) -> Path:
    """`node_modules` of the package.json in `folder`. Skips the test where there is no npm."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed: what this test takes from there cannot be had")
    modules = folder / "node_modules"
    installed = modules / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < (folder / "package.json").stat().st_mtime:
        flags = ("--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts")
        done = subprocess.run(("npm", "install", *flags), cwd=folder, capture_output=True, text=True, timeout=110)
        assert done.returncode == 0, done.stdout + done.stderr
        installed.touch()
    return modules
