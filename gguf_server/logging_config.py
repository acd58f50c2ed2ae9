"""How and where the server logs: as JSON lines, or as people read them."""

from __future__ import annotations

import logging
import sys

import structlog

from backends import quiet_logging
from gguf_server.settings import ServerSettings


def set_up_logging(server: ServerSettings) -> None:
    """One format on stderr for our own log and for that of the libraries."""
    level = logging.getLevelNamesMapping()[server.log_level.upper()]
    is_console = server.log_format == "console" or (server.log_format == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if is_console else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    quiet_logging.set_up(level, [renderer])
