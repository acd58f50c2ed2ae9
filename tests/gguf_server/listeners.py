"""Listeners as configurations make them, whose engines are never started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from gguf_server import config
from gguf_server.admission import Admission
from gguf_server.app import make_app
from gguf_server.chain import EngineChain
from gguf_server.gateway import Gateway
from gguf_server.keys import KeyRing
from gguf_server.service import Service
from gguf_server.settings import Settings


def shared_listener(settings: Settings, folder: Path, mounts: Mapping[str, str] | None = None) -> web.Application:
    """The application of the shared listener, or of one that has `mounts`: names of services by their paths."""
    services = {
        name: Service(name, of, EngineChain(name, []), Admission(of.max_concurrent, of.max_queue))
        for name, of in settings.services.items()
    }
    gateway = Gateway(settings, KeyRing(folder / "keys.json", ("key",)), services)
    if mounts is None:
        return make_app(gateway, gateway.shared_mounts)
    return make_app(gateway, {path: services[name] for path, name in mounts.items()})


def of_presets(*names: str) -> Settings:
    return config.load(presets=names, environ={})
