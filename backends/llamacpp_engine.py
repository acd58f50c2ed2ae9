"""How the gateway launches this repository's llama.cpp worker (`python -m backends.llamacpp`), and why it ended.

A worker that cannot load says so in one line on standard error, `ENGINE_FAILURE {"reason": ..., "detail": ...}`, and
ends with exit code 3. What it cannot say itself (a failed assert in C, a kill) is read from its last lines.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import structlog

from backends.base import Endpoint, EngineFailure, FailureReason
from backends.process import exit_in_words
from backends.socket_path import new_socket
from backends.supervised import LaunchPlan, SupervisedEngine
from backends.weight_files import local_file
from weights.refs import WeightsMissing, resolve

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

FAILURE_MARKER = "ENGINE_FAILURE "
KEY_VARIABLE = "GGUF_WORKER_API_KEY"

_OWN_LOG = "{"  # of requests, as JSON: no cause of an end
_OUT_OF_MEMORY = re.compile(r"cudaMalloc failed|out of memory|failed to allocate", re.IGNORECASE)
_TELLING = re.compile(r"GGML_ASSERT|\berror\b|Error: ", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppSpec:
    """One worker. `n_ctx` is the context of one request; `n_ctx_total` the cache cells of all, n_ctx * n_parallel
    when absent. `runtime_dir` holds the socket and is made, readable by nobody else, when it is not there. `mmproj` is
    the file that lets the model see images; where it is missing the engine runs without, and refuses them.
    """

    weights: str
    alias: str
    runtime_dir: Path
    n_ctx: int
    device: Literal["auto", "cuda", "cpu"] = "auto"
    cuda_device: int | None = None
    n_parallel: int = 4
    n_ctx_total: int | None = None
    n_batch: int = 512
    n_ubatch: int = 512
    n_threads: int | None = None
    n_gpu_layers: int = -1
    flash_attn: Literal["auto", "on", "off"] = "auto"
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    use_mmap: bool = True
    reasoning_format: str = "auto"
    chat_template_file: Path | None = None
    embeds: bool = False
    matryoshka: bool = False
    cache_ram_mib: int = 1024
    speculation: Literal["off", "lookup"] = "off"
    load_timeout_s: float = 600.0
    mmproj: str | None = None
    images_per_prompt: int = 8
    image_hosts: tuple[str, ...] = ()
    private_image_hosts: bool = False


def llamacpp_engine(spec: LlamaCppSpec, *, name: str = "llama.cpp", stop_grace_s: float = 10.0) -> SupervisedEngine:
    """A stopped engine."""
    plan = partial(launch_plan, spec)
    return SupervisedEngine(
        name=name,
        kind="llamacpp",
        device=spec.device,
        cuda_device=spec.cuda_device,
        plan=plan,
        stop_grace_s=stop_grace_s,
    )


def launch_plan(spec: LlamaCppSpec) -> LaunchPlan:
    """One start, with a socket and a key of its own. Raises `EngineFailure`: weights missing, no place for a socket."""
    model = local_file(spec.weights)
    socket = new_socket(spec.runtime_dir)
    key = secrets.token_urlsafe(32)
    return LaunchPlan(
        argv=argv(spec, model=model, mmproj=_mmproj(spec), socket=socket),
        env=environment(spec, key, os.environ),
        endpoint=Endpoint(
            "http://localhost",
            key,
            str(socket),
            steps_metrics=("gguf_worker_steps_total",),
            continues_reasoning=True,
            embeds=spec.embeds,
        ),
        served_model=spec.alias,
        load_timeout_s=spec.load_timeout_s,
        classify=classify,
    )


def _mmproj(spec: LlamaCppSpec) -> Path | None:
    """A model that cannot see is worth more than none: only the log tells of a missing file."""
    if spec.mmproj is None:
        return None
    try:
        return resolve(spec.mmproj)
    except WeightsMissing as error:
        _log.warning("an engine starts without images", model=spec.alias, why=str(error))
        return None


def argv(spec: LlamaCppSpec, *, model: Path, socket: Path, mmproj: Path | None = None) -> tuple[str, ...]:
    """The worker's command line; what the specification leaves to the worker is left out."""
    options: dict[str, object | None] = {
        "--model": model,
        "--alias": spec.alias,
        "--uds": socket,
        "--device": spec.device,
        "--n-ctx": spec.n_ctx,
        "--n-parallel": spec.n_parallel,
        "--n-ctx-total": spec.n_ctx_total,
        "--n-batch": spec.n_batch,
        "--n-ubatch": spec.n_ubatch,
        "--threads": spec.n_threads,
        "--n-gpu-layers": spec.n_gpu_layers,
        "--flash-attn": spec.flash_attn,
        "--cache-type-k": spec.cache_type_k,
        "--cache-type-v": spec.cache_type_v,
        "--reasoning-format": spec.reasoning_format,
        "--chat-template-file": spec.chat_template_file,
        "--mmproj": mmproj,
        "--images-per-prompt": spec.images_per_prompt if mmproj else None,
        "--cache-ram-mib": spec.cache_ram_mib,
        "--speculation": spec.speculation,
    }
    given = [text for option, value in options.items() if value is not None for text in (option, str(value))]
    given += [text for host in spec.image_hosts if mmproj for text in ("--image-host", host)]
    switches = {
        "--no-mmap": not spec.use_mmap,
        "--embedding": spec.embeds,
        "--matryoshka": spec.matryoshka,
        "--private-image-hosts": bool(mmproj) and spec.private_image_hosts,
    }
    on = [switch for switch, is_on in switches.items() if is_on]
    return (sys.executable, "-m", "backends.llamacpp", *given, *on)


def environment(spec: LlamaCppSpec, key: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """The worker's whole environment; cards are counted as nvidia-smi counts them."""
    env = {**inherited, KEY_VARIABLE: key, "PYTHONUNBUFFERED": "1"}
    if spec.device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    elif spec.cuda_device is not None:
        env |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(spec.cuda_device)}
    return env


def classify(exit_code: int, log_tail: tuple[str, ...]) -> EngineFailure:
    """Why the worker ended: its own word where it left one, else what its last lines and its exit code suggest."""
    reason, detail = _told(log_tail) or _guessed(exit_code, log_tail)
    return EngineFailure(reason, detail, exit_code=exit_code, log_tail=log_tail)


def _told(log_tail: tuple[str, ...]) -> tuple[FailureReason, str] | None:
    for line in reversed(log_tail):
        if line.startswith(FAILURE_MARKER):
            try:
                told = json.loads(line.removeprefix(FAILURE_MARKER))
                return FailureReason(told["reason"]), str(told["detail"])
            except (ValueError, KeyError, TypeError):
                continue
    return None


def _guessed(exit_code: int, log_tail: tuple[str, ...]) -> tuple[FailureReason, str]:
    if line := _last_match(_OUT_OF_MEMORY, log_tail):
        return FailureReason.OUT_OF_MEMORY, line
    if exit_code == -signal.SIGKILL:
        return FailureReason.CRASHED, "killed (SIGKILL), perhaps by the kernel for memory"
    how = exit_in_words(exit_code)
    line = _last_match(_TELLING, tuple(line for line in log_tail if not line.startswith(_OWN_LOG)))
    return FailureReason.CRASHED, f"{how}: {line}" if line else how


def _last_match(pattern: re.Pattern[str], log_tail: tuple[str, ...]) -> str | None:
    return next((line.strip() for line in reversed(log_tail) if pattern.search(line)), None)
