"""What the service manager is told, where one listens: the protocol of sd_notify(3), without its library."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

_VARIABLE: Final = "NOTIFY_SOCKET"
_ENDING_S: Final = 60.0  # for last words, and for engines that have to be killed


def tell_ready(n_services: int, environ: Mapping[str, str] = os.environ) -> None:
    """The listeners are up; the models may still be loading."""
    _tell(f"READY=1\nSTATUS=listening, {n_services} service{'s' if n_services != 1 else ''}", environ)


def tell_stopping(drain_s: float, environ: Mapping[str, str] = os.environ) -> None:
    """Answers are being finished for `drain_s`; more time is asked for than the unit's TimeoutStopSec may give."""
    extend_us = int(1e6 * (drain_s + _ENDING_S))
    _tell(f"STOPPING=1\nSTATUS=finishing answers\nEXTEND_TIMEOUT_USEC={extend_us}", environ)


def _tell(state: str, environ: Mapping[str, str]) -> None:
    """A manager that does not listen any more is no reason to end."""
    address = environ.get(_VARIABLE, "")
    if not address.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
