"""How the gateway launches `vllm serve`, and why it ended.

vLLM is never imported: it lives in whatever interpreter the specification names, and a look at that interpreter's
files tells within milliseconds whether it is there. Flags and failure lines are those of vLLM 0.32 and 0.33.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from backends.base import Endpoint, EngineFailure, FailureReason
from backends.process import exit_in_words
from backends.supervised import LaunchPlan, SupervisedEngine
from weights.refs import WeightsMissing, resolve

Quantization = Literal["gguf", "bitsandbytes", "awq"]

_LOOPBACK = "127.0.0.1"
_ASK_LIMIT_S = 10.0
_FIND = "import importlib.util as u; s = u.find_spec('vllm'); print(bool(s and s.origin))"
_PACKAGES = {"gguf": "'vllm>=0.32' vllm-gguf-plugin", "bitsandbytes": "'vllm>=0.32' vllm-bnb-plugin bitsandbytes"}

# The first row that matches any line decides; the line becomes the detail.
_FAILURES: tuple[tuple[str, FailureReason], ...] = (
    (r"Failed to infer device type", FailureReason.NO_GPU),
    (r"No CUDA GPUs are available|no CUDA-capable device|Found no NVIDIA driver", FailureReason.NO_GPU),
    (r"CUDA out of memory|OutOfMemoryError", FailureReason.OUT_OF_MEMORY),
    (r"Free memory on device .* less than desired", FailureReason.OUT_OF_MEMORY),
    (r"No available memory for the cache blocks", FailureReason.OUT_OF_MEMORY),
    (r"larger than the available KV cache memory", FailureReason.OUT_OF_MEMORY),
    (r"Unknown quantization method: (gguf|bitsandbytes)", FailureReason.NOT_INSTALLED),
    (r"config file at '.*\.gguf' is not a valid JSON", FailureReason.NOT_INSTALLED),
    (r"are not supported for now|does not recognize this architecture", FailureReason.UNSUPPORTED_MODEL),
    (r"HFValidationError|LocalEntryNotFoundError|RepositoryNotFoundError", FailureReason.WEIGHTS_MISSING),
    (r"GatedRepoError|Unrecognized model in", FailureReason.WEIGHTS_MISSING),
    (r"SafetensorError|cannot reshape array", FailureReason.WEIGHTS_DAMAGED),
    (r"greater than the derived max_model_len", FailureReason.INVALID_SETTINGS),
    (r"invalid (tool call|reasoning) parser|Address already in use", FailureReason.INVALID_SETTINGS),
)
_CAUSE = re.compile(r"\b\w*(Error|Exception): ")
_NOT_THE_CAUSE = re.compile(r"\[Errno 24\]|Engine core initialization failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSpec:
    """One `vllm serve`. `model` is a hub id, or a reference to a file as `weights.refs` reads them.

    `names` are the model id and its aliases; `port` 0 is any free one; `python` the gateway's own when absent.
    """

    model: str
    names: tuple[str, ...]
    max_model_len: int
    max_num_seqs: int
    port: int = 0
    python: Path | None = None
    quantization: Quantization | None = None
    tokenizer: str | None = None
    dtype: Literal["auto", "float16", "bfloat16"] = "auto"
    cuda_device: int | None = None
    gpu_memory_utilization: float = 0.92
    enforce_eager: bool = False
    reasoning_parser: str | None = None
    tool_call_parser: str | None = None
    images_per_prompt: int = 0
    extra_args: tuple[str, ...] = ()
    load_timeout_s: float = 900.0


def vllm_engine(spec: VllmSpec, *, name: str = "vllm", stop_grace_s: float = 10.0) -> SupervisedEngine:
    """A stopped engine."""
    plan = partial(launch_plan, spec)
    return SupervisedEngine(
        name=name, kind="vllm", device="cuda", cuda_device=spec.cuda_device, plan=plan, stop_grace_s=stop_grace_s
    )


def launch_plan(spec: VllmSpec) -> LaunchPlan:
    """One start. Raises `EngineFailure`: not installed, weights missing, port taken. Blocks up to some seconds."""
    python = str(spec.python or sys.executable)
    check_installed(python, spec.quantization)
    model = _model(spec.model)
    port = _loopback_port(spec.port)
    key = secrets.token_urlsafe(32)
    return LaunchPlan(
        argv=argv(spec, python=python, model=model, port=port),
        env=environment(spec, key, os.environ),
        endpoint=Endpoint(f"http://{_LOOPBACK}:{port}", key),
        served_model=spec.names[0],
        load_timeout_s=spec.load_timeout_s,
        classify=classify,
    )


def argv(spec: VllmSpec, *, python: str, model: str, port: int) -> tuple[str, ...]:
    """The command line; `extra_args` come last and so win."""
    line = [python, "-m", "vllm.entrypoints.cli.main", "serve", model]
    line += ["--served-model-name", *spec.names, "--host", _LOOPBACK, "--port", str(port)]
    line += ["--max-model-len", str(spec.max_model_len), "--max-num-seqs", str(spec.max_num_seqs)]
    line += ["--gpu-memory-utilization", str(spec.gpu_memory_utilization), "--dtype", spec.dtype]
    if spec.quantization == "bitsandbytes":  # vLLM finds out about the others, and faster kernels with them
        line += ["--quantization", spec.quantization]
    if spec.tokenizer:
        line += ["--tokenizer", spec.tokenizer]
    if spec.reasoning_parser:
        line += ["--reasoning-parser", spec.reasoning_parser]
    if spec.tool_call_parser:
        line += ["--enable-auto-tool-choice", "--tool-call-parser", spec.tool_call_parser]
    if spec.images_per_prompt > 0:
        limits = {"image": spec.images_per_prompt, "audio": 0, "video": 0}
        line += ["--limit-mm-per-prompt", json.dumps(limits, separators=(",", ":"))]
    if spec.enforce_eager:
        line.append("--enforce-eager")
    return (*line, "--disable-uvicorn-access-log", *spec.extra_args)


def environment(spec: VllmSpec, key: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """vLLM's whole environment. A VLLM_PLUGINS that is already there is kept: whoever set it knows better."""
    plugins = spec.quantization if spec.quantization in ("gguf", "bitsandbytes") else ""
    env = {"VLLM_PLUGINS": plugins, **inherited}
    env |= {"VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
    if spec.cuda_device is not None:
        env |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(spec.cuda_device)}
    return env


def check_installed(python: str, quantization: Quantization | None = None) -> None:
    """Raises `EngineFailure` where that interpreter has no vLLM. Blocks: milliseconds for the gateway's own."""
    if not Path(python).is_file():
        raise EngineFailure(FailureReason.NOT_INSTALLED, f"there is no interpreter {python}")
    packages = _PACKAGES.get(quantization or "", "'vllm>=0.32'")
    if not (_is_here() if python == sys.executable else _is_in(python)):
        detail = f"{python} has no vLLM: {python} -m pip install {packages}"
        raise EngineFailure(FailureReason.NOT_INSTALLED, detail)


def classify(exit_code: int, log_tail: tuple[str, ...]) -> EngineFailure:
    """Why vLLM ended. It ends with exit code 0 when its engine process dies, so no code is a good one."""
    reason, detail = _explain(exit_code, log_tail)
    return EngineFailure(reason, detail, exit_code=exit_code, log_tail=log_tail)


def _explain(exit_code: int, log_tail: tuple[str, ...]) -> tuple[FailureReason, str]:
    for pattern, reason in _FAILURES:
        if line := _last_match(re.compile(pattern), log_tail):
            return reason, line
    how = exit_in_words(exit_code)
    if exit_code == 2:
        line = _last_match(re.compile(r"\berror: "), log_tail)
        return FailureReason.INVALID_SETTINGS, line or how
    causes = tuple(line for line in log_tail if not _NOT_THE_CAUSE.search(line))
    line = _last_match(_CAUSE, causes)
    return FailureReason.CRASHED, f"{how}: {line}" if line else how


def _last_match(pattern: re.Pattern[str], log_tail: tuple[str, ...]) -> str | None:
    return next((line.strip() for line in reversed(log_tail) if pattern.search(line)), None)


def _is_here() -> bool:
    spec = importlib.util.find_spec("vllm")
    return spec is not None and spec.origin is not None


def _is_in(python: str) -> bool:
    try:
        found = subprocess.run([python, "-c", _FIND], capture_output=True, text=True, timeout=_ASK_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineFailure(FailureReason.NOT_INSTALLED, f"{python} does not answer: {error}") from error
    return found.stdout.strip() == "True"


def _model(ref: str) -> str:
    """A hub id as it is; the local file of everything else."""
    if not (ref.startswith(("pkg:", "hf:", "/", ".", "~")) or ref.endswith(".gguf")):
        return ref
    if (folder := Path(ref).expanduser()).is_dir():
        return str(folder)
    try:
        return str(resolve(ref))
    except WeightsMissing as error:
        raise EngineFailure(FailureReason.WEIGHTS_MISSING, str(error)) from error


def _loopback_port(wanted: int) -> int:
    """`wanted` or, for 0, a free port. A taken one is noticed here: vLLM needs 12 s to say so."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, wanted))
        except OSError as error:
            taken = "is taken by another program" if error.errno == errno.EADDRINUSE else str(error)
            raise EngineFailure(FailureReason.INVALID_SETTINGS, f"port {wanted} {taken}") from error
        port: int = probe.getsockname()[1]
        return port
