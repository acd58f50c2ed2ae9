"""Under which names the server may be called: a page of somebody else's whose name was made to point here is refused.

Such a page ("DNS rebinding") reaches a server on the visitor's own machine under the page's name. It never comes with
an address or with a name that only this machine has, so those are no danger.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from functools import cache
from typing import Final

from gguf_server.config import is_loopback
from gguf_server.errors import WrongHost
from gguf_server.settings import ServerSettings

_ANY: Final = "*"
_FROM_CONTAINERS: Final = ("host.docker.internal", "gateway.docker.internal", "host.containers.internal")
_HOST: Final = re.compile(r"(?P<name>\[[0-9a-fA-F:.%]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")


def check_host(host: str, server: ServerSettings) -> None:
    """`host` as a Host header has it. Raises `WrongHost`."""
    allowed = server.allowed_hosts or (own_names() if is_loopback(server.host) else (_ANY,))
    if _ANY in allowed:
        return
    found = _HOST.fullmatch(host)
    name = found["name"].rstrip(".").lower() if found else ""
    if not name or not (_is_address(name) or _is_one_of(name, allowed)):
        shown = repr(name[:100]) if name else "what the Host header says"
        raise WrongHost(f"this server does not go by {shown}: add the name to allowed_hosts under [server]")


@cache
def own_names() -> tuple[str, ...]:
    """Names that mean this machine to itself and to its containers."""
    name = socket.gethostname().lower()
    return ("localhost", "*.localhost", name, f"{name}.local", *_FROM_CONTAINERS)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _is_one_of(name: str, allowed: Iterable[str]) -> bool:
    return any(
        name.endswith(entry[1:].lower()) if entry.startswith("*.") else name == entry.lower() for entry in allowed
    )
