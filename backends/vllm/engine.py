"""An engine that is `vllm serve`: the plan of one start, with all that can be known before it."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import sys
from dataclasses import replace
from functools import partial

import structlog

from backends.base import Dialect, Endpoint, EngineFailure, FailureReason
from backends.served_lines import showing
from backends.socket_path import new_socket
from backends.supervised import LaunchPlan, SupervisedEngine
from backends.vllm.argv import LOOPBACK, argv, environment, on_port, on_socket
from backends.vllm.failures import HARMLESS, classify, phase
from backends.vllm.interpreter import installed
from backends.vllm.memory import CardMemory, ReadCard, check_fits, is_small, margin_gib
from backends.vllm.model_files import check_gguf, local_model, local_tokenizer, quantization_of
from backends.vllm.plugins import MAY_NEED, TESTED, check, is_tested
from backends.vllm.spec import VllmSpec

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

# The counter stands still until a prompt's end, but the use of the cache moves with each piece of it; while answers are
# written that moves once in a block only.
_STEPS = ("vllm:kv_cache_usage_perc", "vllm:iteration_tokens_total_count")


def _no_card(_: int | None) -> None:
    return None


def vllm_engine(
    spec: VllmSpec, *, name: str = "vllm", read_card: ReadCard = _no_card, stop_grace_s: float = 10.0
) -> SupervisedEngine:
    """A stopped engine. `read_card` is asked at each start, in a thread."""
    plan = partial(launch_plan, spec, read_card=read_card)
    return SupervisedEngine(
        name=name, kind="vllm", device="cuda", cuda_device=spec.cuda_device, plan=plan, stop_grace_s=stop_grace_s
    )


def launch_plan(spec: VllmSpec, *, read_card: ReadCard = _no_card) -> LaunchPlan:
    """One start. Raises `EngineFailure` where it is plain that it would fail: not installed, weights missing or of a
    kind that comes out wrong, no memory, port taken. Blocks for milliseconds, at worst for some seconds.
    """
    python = str(spec.python or sys.executable)
    spec = replace(spec, quantization=quantization_of(spec))
    found = installed(python, MAY_NEED.get(spec.quantization, ()))
    plugin = check(found, spec.quantization, python=python, environ=os.environ).plugin
    if not is_tested(found):
        _log.warning("vllm_version_not_tested", python=python, version=found.vllm_version, tested=TESTED)
    model = local_model(spec.model)
    if spec.quantization == "gguf":
        check_gguf(spec, model, found)
    spec = replace(spec, tokenizer=local_tokenizer(spec.tokenizer), hf_config_path=local_tokenizer(spec.hf_config_path))
    _check_memory(spec, read_card(spec.cuda_device))
    key = secrets.token_urlsafe(32)
    listen, base_url, uds_path = _where(spec)
    return LaunchPlan(
        argv=argv(spec, python=python, model=model, listen=listen),
        env=environment(spec, key, os.environ, plugins=plugin),
        endpoint=Endpoint(base_url, key, uds_path, dialect=Dialect.VLLM, steps_metrics=_STEPS, embeds=spec.embeds),
        served_model=spec.names[0],
        load_timeout_s=spec.load_timeout_s,
        classify=classify,
        phase=phase,
        show=showing(HARMLESS),
    )


def _check_memory(spec: VllmSpec, card: CardMemory | None) -> None:
    if card is None:
        return
    check_fits(card, utilization=spec.gpu_memory_utilization, weights_gib=spec.weights_gib)
    if spec.weights_gib is None:
        return
    margin = margin_gib(card, utilization=spec.gpu_memory_utilization, weights_gib=spec.weights_gib)
    if is_small(margin):
        advice = {"smaller_preset": spec.smaller_preset} if spec.smaller_preset else {}
        _log.warning("vllm_memory_is_tight", weights_gib=spec.weights_gib, left_gib=round(margin, 1), **advice)


def _where(spec: VllmSpec) -> tuple[tuple[str, ...], str, str | None]:
    """What to listen on, and how that is reached. A socket is for this user alone; vLLM leaves paths without a key."""
    if spec.port == 0 and spec.runtime_dir is not None:
        path = str(new_socket(spec.runtime_dir))
        return on_socket(path), "http://localhost", path
    port = _loopback_port(spec.port)
    return on_port(port), f"http://{LOOPBACK}:{port}", None


def _loopback_port(wanted: int) -> int:
    """`wanted` or, for 0, a free port. A taken one is noticed here: vLLM needs 12 s to say so."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, wanted))
        except OSError as error:
            taken = "is taken by another program" if error.errno == errno.EADDRINUSE else str(error)
            raise EngineFailure(FailureReason.INVALID_SETTINGS, f"port {wanted} {taken}") from error
        port: int = probe.getsockname()[1]
        return port
