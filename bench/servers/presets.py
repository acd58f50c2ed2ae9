"""A preset's service with one of its engines, as a configuration of the gateway.

What a preset says is asked of the program itself (`gguf-server config show`), with the configuration file that the
operator names: so an engine is measured as it is served, and its command line is written in one place.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson
import tomli_w

from weights.refs import WeightsMissing, resolve

GATEWAY: Final = (sys.executable, "-m", "gguf_server")
SERVICE: Final = "measured"
_LIMIT_S: Final = 60.0
_NOT_WANTED: Final = frozenset({"preset", "port", "engine_port"})


class PresetError(Exception):
    """The preset, or the operator's configuration, has no such engine; the message says what it has."""


def read_service(preset: str, config: Path | None) -> dict[str, Any]:
    """All settings in force of a service: the operator's own that goes by this preset, else the preset as it is.

    Blocks for a second or two. Raises `PresetError`.
    """
    if config is not None:
        for name, service in _shown("--config", str(config.resolve())).items():
            if preset in (name, service.get("preset")):
                return service
    return _shown("--preset", preset)[preset]


def _shown(*given: str) -> dict[str, dict[str, Any]]:
    """The services as `gguf-server config show` tells them."""
    line = [*GATEWAY, "config", "show", "--format", "json", *given]
    try:
        done = subprocess.run(line, capture_output=True, timeout=_LIMIT_S, check=False)
        if done.returncode != 0:
            raise PresetError(f"{' '.join(given)}: {done.stderr.decode(errors='replace').strip()[-400:]}")
        return dict(_without_nothing(orjson.loads(done.stdout)["services"]))
    except (OSError, subprocess.TimeoutExpired, orjson.JSONDecodeError, LookupError) as error:
        raise PresetError(f"{' '.join(given)} cannot be read: {type(error).__name__}: {error}") from error


def with_one_engine(service: Mapping[str, Any], kind: str, device: str | None) -> dict[str, Any]:
    """At the root of a listener, with the first engine of this kind and device alone: nothing can step in for it.

    Raises `PresetError`.
    """
    for engine in service["engines"]:
        if engine["kind"] == kind and device in (None, engine.get("device")):
            kept = {key: value for key, value in service.items() if key not in _NOT_WANTED}
            return {**kept, "paths": [""], "standby": "cold", "engines": [engine]}
    has = ", ".join(" ".join(filter(None, (engine["kind"], engine.get("device")))) for engine in service["engines"])
    wanted = " ".join(filter(None, (kind, device)))
    raise PresetError(f"{service['model']} has no engine {wanted}; it has {has}")


def local_file(service: Mapping[str, Any]) -> Path | None:
    """The file that its one engine serves; None where that is no single file, or is not on this machine."""
    [engine] = service["engines"]
    ref = engine.get("model") or service.get("weights") or engine.get("weights")
    try:
        return resolve(str(ref)) if ref else None
    except WeightsMissing:
        return None


def write_config(service: Mapping[str, Any], port: int, path: Path) -> None:
    """For `gguf-server serve --config`, on loopback."""
    path.write_text(tomli_w.dumps({"server": {"host": "127.0.0.1", "port": port}, "services": {SERVICE: service}}))


def in_front_of(url: str, model: str, n_ctx: int, key_variable: str) -> dict[str, Any]:
    """A service whose one engine is a server that runs already; its key is in that environment variable."""
    return {
        "model": model,
        "service_name": "measured_service",
        "title": "Measured",
        "paths": [""],
        "max_model_len": n_ctx,
        "max_concurrent": 256,
        "max_queue": 1024,
        "engines": [{"kind": "openai", "url": url, "model": model, "api_key_env": key_variable}],
    }


def _without_nothing(value: Any) -> Any:
    """TOML has no null, and a key that is not there means the same."""
    if isinstance(value, dict):
        return {key: _without_nothing(inner) for key, inner in value.items() if inner is not None}
    return [_without_nothing(inner) for inner in value] if isinstance(value, list) else value
