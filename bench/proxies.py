"""The proxies whose overhead is compared: how LiteLLM is installed, how both are configured, what to type.

Both stand in front of `bench.upstream`, with one worker, one key and no database, and log what they log by default.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from shlex import join, quote
from typing import Final

KEY: Final = "sk-overhead"
_PORTS: Final = {"upstream": 18090, "gateway": 18091, "litellm": 18092}
_URLS: Final = {name: f"http://127.0.0.1:{port}" for name, port in _PORTS.items()}

_LITELLM_CONFIG: Final = f"""\
model_list:
  - model_name: fake
    litellm_params:
      model: openai/fake
      api_base: {_URLS["upstream"]}/v1
      api_key: none
general_settings:
  master_key: {KEY}
"""
_GATEWAY_CONFIG: Final = f"""\
[server]
port = {_PORTS["gateway"]}

[services.fake]
model = "fake"
service_name = "fake_service"
title = "Fake"
paths = [""]
max_model_len = 1048576
max_concurrent = 256

[[services.fake.engines]]
kind = "openai"
url = "{_URLS["upstream"]}"
model = "fake"
dialect = "vllm"
"""
# What LiteLLM recommends for production, and no download of price lists.
_LITELLM_ENVIRONMENT: Final = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


def build_litellm(work: Path, version: str) -> None:
    """Into an environment of its own. Blocks for a minute. Raises `CalledProcessError`."""
    folder = work / "litellm-venv"
    venv.create(folder, with_pip=True)
    subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", f"litellm[proxy]=={version}"], check=True)


def write_configs(work: Path) -> tuple[Path, Path]:
    """The gateway's and LiteLLM's."""
    work.mkdir(parents=True, exist_ok=True)
    gateway, litellm = work / "overhead-gateway.toml", work / "overhead-litellm.yaml"
    gateway.write_text(_GATEWAY_CONFIG)
    litellm.write_text(_LITELLM_CONFIG)
    return gateway, litellm


def commands(work: Path) -> str:
    """Shell lines that start the upstream and both proxies, measure them, and end them."""
    gateway, litellm = write_configs(work)
    starts = [
        _started([sys.executable, "-m", "bench.upstream", "--port", str(_PORTS["upstream"])], work / "upstream.log"),
        _started(
            [sys.executable, "-m", "gguf_server", "serve", "--config", str(gateway)],
            work / "gateway.log",
            GGUF_SERVER_API_KEYS=KEY,
        ),
        _started(
            [
                str(work / "litellm-venv" / "bin" / "litellm"),
                *("--config", str(litellm), "--host", "127.0.0.1", "--port", str(_PORTS["litellm"])),
                *("--num_workers", "1", "--telemetry", "False"),
            ],
            work / "litellm.log",
            **_LITELLM_ENVIRONMENT,
        ),
    ]
    proxies = [f"--proxy {name}={_URLS[name]},key={KEY}" for name in ("gateway", "litellm")]
    measure = [
        f"{quote(sys.executable)} -m bench.overhead",
        f"--upstream {_URLS['upstream']}",
        *proxies,
        "--out overhead.json",
    ]
    return "\n".join([*starts, " \\\n    ".join(measure), "kill %1 %2 %3"])


def _started(argv: Sequence[str], log: Path, **environment: str) -> str:
    settings = "".join(f"{name}={quote(value)} " for name, value in environment.items())
    return f"{settings}{join(argv)} > {quote(str(log))} 2>&1 &"
