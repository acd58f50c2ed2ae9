"""The proxies whose overhead is compared: how both are configured, what to type.

Both stand in front of `bench.upstream`, with one worker, one key and no database, and log what they log by default.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import join, quote
from typing import Final

import orjson

from bench.servers import story
from bench.servers.peer_builds import PeerBuilds

KEY: Final = "sk-overhead"
_PORTS: Final = {"upstream": 18090, "gateway": 18091, "litellm": 18092}
_URLS: Final = {name: f"http://127.0.0.1:{port}" for name, port in _PORTS.items()}

LITELLM_KEY_VARIABLE: Final = "LITELLM_MASTER_KEY"
ENGINE_KEY_VARIABLE: Final = "BENCH_ENGINE_KEY"
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
LITELLM_ENVIRONMENT: Final = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


def litellm_config(url: str, model: str) -> bytes:
    """Of LiteLLM in front of one server; JSON is YAML. Both keys are in the environment."""
    base = f"{url.rstrip('/').removesuffix('/v1')}/v1"
    engine = {"model": f"openai/{model}", "api_base": base, "api_key": f"os.environ/{ENGINE_KEY_VARIABLE}"}
    return orjson.dumps(
        {
            "model_list": [{"model_name": model, "litellm_params": engine}],
            "general_settings": {"master_key": f"os.environ/{LITELLM_KEY_VARIABLE}"},
        }
    )


def litellm_argv(builds: PeerBuilds, config: Path, port: int) -> list[str]:
    line = [str(builds.litellm), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    return [*line, "--num_workers", "1", "--telemetry", "False"]


def write_configs(work: Path) -> tuple[Path, Path]:
    """The gateway's and LiteLLM's."""
    work.mkdir(parents=True, exist_ok=True)
    gateway, litellm = work / "overhead-gateway.toml", work / "overhead-litellm.yaml"
    gateway.write_text(_GATEWAY_CONFIG)
    litellm.write_bytes(litellm_config(_URLS["upstream"], story.MODEL))
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
            litellm_argv(PeerBuilds(work), litellm, _PORTS["litellm"]),
            work / "litellm.log",
            **{**LITELLM_ENVIRONMENT, LITELLM_KEY_VARIABLE: KEY, ENGINE_KEY_VARIABLE: "none"},
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
