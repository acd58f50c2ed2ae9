"""What the server meets outside itself: ports, the hub's cache and its disk, the key file."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from gguf_server import config, keys
from gguf_server.settings import Settings

LOOPBACK: Final = "127.0.0.1"

PortState = Literal["free", "taken", "forbidden", "no_such_address", "failing"]
_STATES: Final[dict[int, PortState]] = {
    errno.EADDRINUSE: "taken",
    errno.EACCES: "forbidden",
    errno.EPERM: "forbidden",
    errno.EADDRNOTAVAIL: "no_such_address",
}


@dataclass(frozen=True, slots=True)
class Port:
    """`setting` is where it comes from, such as `server.port`."""

    host: str
    number: int
    setting: str
    state: PortState = "free"
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class HubCache:
    """`folder` may not be there yet; then the two others speak of the folder it would be made in."""

    folder: str
    is_writable: bool
    n_free_bytes: int
    is_offline: bool


@dataclass(frozen=True, slots=True)
class Keys:
    """`n_active` counts those of the environment as well."""

    path: str
    n_active: int
    is_loopback: bool
    failure: str | None = None


def look_at_ports(settings: Settings) -> tuple[Port, ...]:
    """Every port that the configuration names, tried for a moment."""
    wanted = [(settings.server.host, settings.server.port, "server.port")]
    for name, service in settings.services.items():
        wanted.append((settings.server.host, service.port or 0, f"services.{name}.port"))
        wanted.append((LOOPBACK, service.engine_port or 0, f"services.{name}.engine_port"))
    return tuple(_tried(*port) for port in wanted if port[1])


def look_at_cache(environ: Mapping[str, str] = os.environ) -> HubCache:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    standing = next((place for place in (folder, *folder.parents) if place.exists()), Path("/"))
    return HubCache(
        folder=str(folder),
        is_writable=standing.is_dir() and os.access(standing, os.W_OK | os.X_OK),
        n_free_bytes=shutil.disk_usage(standing).free,
        is_offline=constants.HF_HUB_OFFLINE,
    )


def look_at_keys(settings: Settings, environ: Mapping[str, str] = os.environ) -> Keys:
    path = settings.server.keys_file or keys.default_path(environ)
    is_loopback = config.is_loopback(settings.server.host)
    n_given = len(keys.tokens_in(environ.get(config.KEYS_VARIABLE, "")))
    try:
        n_kept = sum(record.revoked is None for record in keys.list_keys(path))
    except keys.KeysError as error:
        return Keys(str(path), n_given, is_loopback, str(error))
    return Keys(str(path), n_given + n_kept, is_loopback)


def _tried(host: str, number: int, setting: str) -> Port:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return Port(host, number, setting, _STATES.get(error.errno or 0, "failing"), error.strerror or str(error))
    return Port(host, number, setting)
