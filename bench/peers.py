"""The servers to be compared with: how they are built, and how they are started alike.

    python -m bench.peers build --work DIR                  # once, several minutes
    python -m bench.peers commands --work DIR --model FILE  # what to type to start and compare them
    python -m bench.peers serve llama-server --work DIR --model FILE
    python -m bench.peers build-litellm --work DIR          # the proxy that ours is compared with, a minute
    python -m bench.peers proxies --work DIR                # what to type to start and compare the two

`gguf-server bench run --suite peers` starts and measures them by itself. Peers listen on loopback.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.servers import peer_builds, proxies
from bench.servers.peer_builds import PeerBuilds

PORTS: Final = {"llama-server": 18081, "llama_cpp.server": 18082}
_EOS_OPTIONS: Final = {"llama-server": "eos=ignore_eos", "llama_cpp.server": "eos=bias:{ids}"}
_VLLM_ENVIRONMENT: Final = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "PYTHONSAFEPATH": "1",  # a folder here that is named vllm is not vLLM
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What all peers are given. `n_ctx_seq`: tokens of context for each of `n_parallel` sequences."""

    builds: PeerBuilds
    model: Path
    n_parallel: int
    threads: int
    n_ctx_seq: int

    def argv(self, peer: str, port: int) -> list[str]:
        listen = ["--host", "127.0.0.1", "--port", str(port)]
        match peer:
            case "llama-server":
                return [*self._llama_server(), *listen]
            case "llama_cpp.server":
                return [*self._llama_cpp_server(), *listen]
            case "vllm-cpu":
                return [*self._vllm(), *listen]
            case _:
                raise ValueError(f"no peer is called {peer}")

    def environment(self, peer: str) -> dict[str, str]:
        if peer != "vllm-cpu":
            return {}
        cores = sorted(os.sched_getaffinity(0))[: self.threads]
        return {**_VLLM_ENVIRONMENT, "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores))}

    def served(self, peer: str) -> Path:
        """The file of weights. vLLM's holds the same model as it was before it was quantised."""
        return (self.builds.vllm_model or self.model) / "model.safetensors" if peer == "vllm-cpu" else self.model

    def _llama_server(self) -> list[str]:
        """`--ctx-size` is that of all sequences together."""
        threads = ["--threads", str(self.threads), "--threads-batch", str(self.threads)]
        rest = ["--parallel", str(self.n_parallel), "--ctx-size", str(self.n_ctx_seq * self.n_parallel)]
        return [str(self.builds.llama_server), "--model", str(self.model), *threads, *rest]

    def _llama_cpp_server(self) -> list[str]:
        """It runs one sequence at a time, and unless told otherwise ends it when the next request comes in."""
        threads = ["--n_threads", str(self.threads), "--n_threads_batch", str(self.threads)]
        rest = ["--n_ctx", str(self.n_ctx_seq), "--interrupt_requests", "false"]
        python = str(self.builds.llama_cpp_python)
        return [python, "-m", "llama_cpp.server", "--model", str(self.model), *threads, *rest]

    def _vllm(self) -> list[str]:
        """On a processor its threads are told in the environment, by their cores."""
        program = [str(self.builds.vllm_python), "-m", "vllm.entrypoints.cli.main"]
        line = [*program, "serve", str(self.builds.vllm_model), "--dtype", "bfloat16", "--enforce-eager"]
        return [*line, "--max-model-len", str(self.n_ctx_seq), "--max-num-seqs", str(self.n_parallel)]


def commands(setting: Setting, eos_ids: str) -> str:
    """Shell lines. The first target is the one that ratios are taken to."""
    starts = [f"{shlex.join(setting.argv(peer, port))} &" for peer, port in PORTS.items()]
    targets = [
        f"--target {peer}=http://127.0.0.1:{port},{_EOS_OPTIONS[peer].format(ids=eos_ids)}"
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
            peer_builds.build(PeerBuilds(given.work), given.version, given.jobs)
        case "build-litellm":
            peer_builds.build_litellm(PeerBuilds(given.work), given.version)
        case "proxies":
            print(proxies.commands(given.work))
        case _:
            setting = Setting(PeerBuilds(given.work), given.model, given.n_parallel, given.threads, given.n_ctx_seq)
            if given.action == "commands":
                print(commands(setting, given.eos_ids))
            else:
                argv = setting.argv(given.peer, PORTS[given.peer])
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
