"""What aiohttp logs of requests that are no HTTP, or that cannot be read to their end: that there was one."""

from __future__ import annotations

import logging


class _WithoutContent(logging.Filter):
    """The error, its message and its place repeat what was sent."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            record.msg, record.args = f"{record.getMessage()}: {type(error).__name__}", ()
            record.exc_info = record.exc_text = None
        return True


def http_logger() -> logging.Logger:
    logger = logging.getLogger("backends.llamacpp.http")
    if not logger.filters:
        logger.addFilter(_WithoutContent())
    return logger
