"""How the gateway launches llama.cpp's own `llama-server`, and why it ended.

Flags and log lines are those of the releases since June 2026: older ones repeat the beginning of an answer that they
are given to continue. What differs in what it speaks is in `Dialect.LLAMA_SERVER`.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from backends.base import Dialect, Endpoint, EngineFailure, FailureReason
from backends.process import exit_in_words
from backends.served_lines import showing
from backends.socket_path import new_socket
from backends.supervised import LaunchPlan, SupervisedEngine
from backends.weight_files import local_file

_ALL_LAYERS = "999"  # understood by every release; "all" is newer
_ERRORS_ONLY = 1  # its warnings repeat what a client sent
_ASK_LIMIT_S = 30.0
_STEPS = ("llamacpp:n_decode_total",)
# Every release knows one of these names, and none minds the others.
_NO_PAGE = {"LLAMA_ARG_UI": "0", "LLAMA_ARG_WEBUI": "0", "LLAMA_ARG_NO_WEBUI": "1"}

# The first row that matches any line decides; the line becomes the detail.
_FAILURES: tuple[tuple[str, FailureReason], ...] = (
    (r"invalid device: ", FailureReason.NO_GPU),
    (r"cudaMalloc failed|CUDA error: out of memory|ErrorOutOfDeviceMemory", FailureReason.OUT_OF_MEMORY),
    (r"insufficient memory|failed to allocate|std::bad_alloc|unable to allocate", FailureReason.OUT_OF_MEMORY),
    (r"failed to open GGUF file|failed to open .*\.gguf", FailureReason.WEIGHTS_MISSING),
    (r"unknown model architecture|unknown pre-tokenizer type", FailureReason.UNSUPPORTED_MODEL),
    (r"not within the file bounds|invalid magic|corrupted or incomplete", FailureReason.WEIGHTS_DAMAGED),
    (r"error loading model", FailureReason.WEIGHTS_DAMAGED),
    (r"invalid argument: |error while handling argument", FailureReason.INVALID_SETTINGS),
    (r"the supplied chat template is not supported", FailureReason.INVALID_SETTINGS),
    (r"couldn't bind HTTP server socket", FailureReason.INVALID_SETTINGS),
)
_STAMP = re.compile(r"^[\d.]+ [A-Z] ")  # time and level
# Frames of a backtrace and threads, as the C library and a debugger print them, besides.
_HARMLESS = "|".join(
    [*(f"(?:{pattern})" for pattern, _ in _FAILURES), r"GGML_ASSERT|CUDA error|^terminate called|^#\d+ +0x|^\[New LWP"]
)
_TELLING = re.compile(r"GGML_ASSERT|terminate called|\berror\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaServerSpec:
    """One llama-server. `n_ctx` is the context of one request; `binary` a path, or a name to be found on PATH.

    `mmproj` is the file that lets the model see images. `runtime_dir` holds the socket.
    """

    weights: str
    alias: str
    runtime_dir: Path
    n_ctx: int
    binary: str = "llama-server"
    mmproj: str | None = None
    device: Literal["auto", "cuda", "cpu"] = "auto"
    cuda_device: int | None = None
    n_parallel: int = 4
    n_threads: int | None = None
    n_gpu_layers: int = -1
    reasoning_format: str = "deepseek"
    chat_template_file: Path | None = None
    extra_args: tuple[str, ...] = ()
    load_timeout_s: float = 600.0


def llama_server_engine(
    spec: LlamaServerSpec, *, name: str = "llama-server", stop_grace_s: float = 10.0
) -> SupervisedEngine:
    """A stopped engine."""
    plan = partial(launch_plan, spec)
    return SupervisedEngine(
        name=name,
        kind="llama-server",
        device=spec.device,
        cuda_device=spec.cuda_device,
        plan=plan,
        stop_grace_s=stop_grace_s,
    )


def launch_plan(spec: LlamaServerSpec) -> LaunchPlan:
    """One start, with a socket and a key of its own.

    Raises `EngineFailure`: not installed, no card, weights missing, no place for a socket. Blocks for a second where a
    card is demanded, since the binary is asked for its devices; a server without one would compute on the processor.
    """
    binary = find_binary(spec.binary)
    model, mmproj = local_file(spec.weights), local_file(spec.mmproj) if spec.mmproj else None
    key = secrets.token_urlsafe(32)
    env = environment(spec, key, os.environ)
    if spec.device == "cuda":
        check_card(binary, env)
    socket = new_socket(spec.runtime_dir)
    return LaunchPlan(
        argv=argv(spec, binary=binary, model=model, mmproj=mmproj, socket=socket),
        env=env,
        endpoint=Endpoint(
            "http://localhost",
            key,
            str(socket),
            dialect=Dialect.LLAMA_SERVER,
            steps_metrics=_STEPS,
            continues_reasoning=True,
        ),
        served_model=spec.alias,
        load_timeout_s=spec.load_timeout_s,
        classify=classify,
        show=showing(_HARMLESS),
    )


def find_binary(binary: str) -> str:
    """The path of an executable. Raises `EngineFailure` where there is none."""
    found = shutil.which(str(Path(binary).expanduser()))
    if found is None:
        where = "there is no program" if os.sep in binary else "PATH has no"
        raise EngineFailure(FailureReason.NOT_INSTALLED, f"{where} {binary}: it comes with llama.cpp")
    return found


def argv(spec: LlamaServerSpec, *, binary: str, model: Path, mmproj: Path | None, socket: Path) -> tuple[str, ...]:
    """The command line; `extra_args` come last and so win. Its `--ctx-size` is what all requests share."""
    options: dict[str, object | None] = {
        "--model": model,
        "--mmproj": mmproj,
        "--alias": spec.alias,
        "--host": socket,
        "--ctx-size": spec.n_ctx * spec.n_parallel,
        "--parallel": spec.n_parallel,
        "--threads": spec.n_threads,
        "--n-gpu-layers": _ALL_LAYERS if spec.n_gpu_layers < 0 else spec.n_gpu_layers,
        "--device": "none" if spec.device == "cpu" else None,
        "--reasoning-format": spec.reasoning_format,
        "--chat-template-file": spec.chat_template_file,
        "--verbosity": _ERRORS_ONLY,
    }
    given = [text for option, value in options.items() if value is not None for text in (option, str(value))]
    return (binary, *given, "--jinja", "--metrics", "--no-context-shift", *spec.extra_args)


def environment(spec: LlamaServerSpec, key: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """The server's whole environment; cards are counted as nvidia-smi counts them."""
    env = {**inherited, **_NO_PAGE, "LLAMA_API_KEY": key}
    if spec.device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    elif spec.cuda_device is not None:
        env |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(spec.cuda_device)}
    return env


def check_card(binary: str, env: Mapping[str, str]) -> None:
    """Raises `EngineFailure` where the binary sees no CUDA device. Blocks."""
    try:
        asked = subprocess.run(
            [binary, "--list-devices"], env=env, capture_output=True, text=True, timeout=_ASK_LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineFailure(FailureReason.NOT_INSTALLED, f"{binary} does not answer: {error}") from error
    if not re.search(r"^\s*CUDA\d+:", asked.stdout, re.MULTILINE):
        detail = f"{binary} sees no CUDA device: no card, no driver, or built without CUDA"
        raise EngineFailure(FailureReason.NO_GPU, detail)


def classify(exit_code: int, log_tail: tuple[str, ...]) -> EngineFailure:
    """Why llama-server ended: what its last lines say, else how it ended."""
    reason, detail = _explain(exit_code, log_tail)
    return EngineFailure(reason, detail, exit_code=exit_code, log_tail=log_tail)


def _explain(exit_code: int, log_tail: tuple[str, ...]) -> tuple[FailureReason, str]:
    for pattern, reason in _FAILURES:
        if line := _last_match(re.compile(pattern), log_tail):
            return reason, line
    if exit_code == -signal.SIGKILL:
        return FailureReason.CRASHED, "killed (SIGKILL), perhaps by the kernel for memory"
    how = exit_in_words(exit_code)
    line = _last_match(_TELLING, log_tail)
    return FailureReason.CRASHED, f"{how}: {line}" if line else how


def _last_match(pattern: re.Pattern[str], log_tail: tuple[str, ...]) -> str | None:
    found = next((line for line in reversed(log_tail) if pattern.search(line)), None)
    return None if found is None else _STAMP.sub("", found.strip())
