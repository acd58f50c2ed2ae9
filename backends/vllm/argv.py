"""The command line and the environment of `vllm serve`: every flag is the same in vLLM 0.23 to 0.33.

A request's text reaches no log of vLLM's: requests are not logged unless asked for, and the level that prints bodies
is kept off. `--disable-log-requests` would say the same and is refused by some of these versions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from backends.vllm.spec import VllmSpec

LOOPBACK = "127.0.0.1"
_NO_DOMAIN = "none.invalid"  # an empty list would allow every one; this name can never be registered


def argv(spec: VllmSpec, *, python: str, model: str, listen: tuple[str, ...]) -> tuple[str, ...]:
    """The command line; `extra_args` come last and so win. `listen` says where, as the two functions below do."""
    line = [python, "-m", "vllm.entrypoints.cli.main", "serve", model]
    line += ["--served-model-name", *spec.names, *listen]
    line += ["--max-model-len", str(spec.max_model_len), "--max-num-seqs", str(spec.max_num_seqs)]
    line += ["--gpu-memory-utilization", str(spec.gpu_memory_utilization), "--dtype", spec.dtype]
    if spec.kv_cache_dtype != "auto":
        line += ["--kv-cache-dtype", spec.kv_cache_dtype]
    return (*line, *_about_the_model(spec), "--disable-uvicorn-access-log", *spec.extra_args)


def on_port(port: int) -> tuple[str, ...]:
    return ("--host", LOOPBACK, "--port", str(port))


def on_socket(path: str) -> tuple[str, ...]:
    return ("--uds", path)


def environment(spec: VllmSpec, key: str, inherited: Mapping[str, str], *, plugins: str = "") -> dict[str, str]:
    """vLLM's whole environment. A VLLM_PLUGINS that is already there is kept: whoever set it knows better."""
    env = {"VLLM_PLUGINS": plugins, "VLLM_HOST_IP": LOOPBACK, **inherited}
    env |= {"VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
    env |= {"VLLM_LOGGING_LEVEL": "INFO", "VLLM_LOGGING_COLOR": "0", "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "false"}
    env["VLLM_DISABLE_REQUEST_ID_RANDOMIZATION"] = "0"  # clients name their requests, and may give a name twice
    env["VLLM_SERVER_DEV_MODE"] = "0"  # its paths ask for no key
    env["VLLM_ENGINE_READY_TIMEOUT_S"] = str(math.ceil(spec.load_timeout_s))
    env["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] = "0"  # from a host that is trusted to one that is not
    env["PYTHONSAFEPATH"] = "1"  # else a folder named vllm where the gateway was started would be taken for vLLM
    if spec.cuda_device is not None:
        env |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(spec.cuda_device)}
    return env


def _about_the_model(spec: VllmSpec) -> list[str]:
    line = []
    if spec.quantization == "bitsandbytes":  # vLLM finds out about the others, and faster kernels with them
        line += ["--quantization", spec.quantization]
    if spec.embeds:  # a decoder would generate
        line += ["--runner", "pooling"]
    if spec.tokenizer:
        line += ["--tokenizer", spec.tokenizer]
    if spec.hf_config_path:
        line += ["--hf-config-path", spec.hf_config_path]
    if spec.reasoning_parser:
        line += ["--reasoning-parser", spec.reasoning_parser]
    if spec.tool_call_parser:
        line += ["--enable-auto-tool-choice", "--tool-call-parser", spec.tool_call_parser]
    if spec.images_per_prompt > 0:
        limits = {"image": spec.images_per_prompt, "audio": 0, "video": 0}
        line += ["--limit-mm-per-prompt", json.dumps(limits, separators=(",", ":"))]
        # an address in a message must not make vLLM fetch it, unless from a host that is trusted
        line += ["--allowed-media-domains", *(spec.image_hosts or (_NO_DOMAIN,))]
    if spec.enforce_eager:
        line.append("--enforce-eager")
    return line
