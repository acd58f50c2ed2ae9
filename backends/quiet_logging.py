"""A log that repeats nothing of what was asked, whoever writes to it.

Our own lines hold no content. A library's may: aiohttp logs a bad request with the exception that quotes it, asyncio
the error of a task that nobody waited for, Python a warning with the value it is about, and an exception is printed
with its message. Of a library's line the format is kept and not what is put into it, of an exception its kind and the
places that it went through.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from pathlib import PurePath
from types import TracebackType
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor

_OURS: Final = ("gguf_server", "backends", "weights", "bench")
_LONGEST: Final = 100
_MOST_CAUSES: Final = 10

log = structlog.get_logger("python")


def stderr_handler(rendering: Sequence[Processor]) -> logging.Handler:
    """Writes our own lines and those of libraries through `rendering`."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _QuietFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                _quiet_exception,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *rendering,
            ],
        )
    )
    return handler


class _QuietFormatter(structlog.stdlib.ProcessorFormatter):
    """Keeps a library's format, which is lost once its arguments are put into it."""

    def format(self, record: logging.LogRecord) -> str:
        if not record.name.startswith(_OURS) and not hasattr(record, "_logger"):  # which structlog leaves there
            # Without arguments the text may have been put together by whoever logs it.
            said = str(record.msg)[:_LONGEST] if record.args else f"{PurePath(record.pathname).name}:{record.lineno}"
            record = logging.makeLogRecord(
                {**vars(record), "msg": f"{record.name}: {said}", "args": (), "stack_info": None}
            )
        return super().format(record)


def set_up(level: int, rendering: Sequence[Processor]) -> None:
    """One format on stderr for our own log and for that of the libraries, and for what Python itself prints."""
    logging.basicConfig(level=level, handlers=[stderr_handler(rendering)], force=True)
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    sys.excepthook = _log_last_error
    sys.unraisablehook = _log_ignored_error
    threading.excepthook = _log_threads_error
    warnings.showwarning = _log_warning


def quiet_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Have `loop` log in the same way what nobody waited for."""
    loop.set_exception_handler(_log_loops_error)


def in_short(error: BaseException) -> dict[str, Any]:
    """An error's kind and places, and those of the errors that it came from, the first of them last."""
    kinds: list[str] = []
    places: list[str] = []
    one: BaseException | None = error
    while one is not None and len(kinds) < _MOST_CAUSES:  # they may go in a circle
        kinds.append(type(one).__name__)
        places += _places(one)
        one = one.__cause__ or one.__context__
    return {"kind": " < ".join(kinds), "place": places}


def _places(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__, limit=-20)
    return [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]


def _quiet_exception(_logger: Any, _method: str, event: EventDict) -> EventDict:
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else sys.exc_info()[1] if given is True else None
    if isinstance(given, tuple):
        error = given[1]
    return event if error is None else {**event, **in_short(error)}


_SHARED: Final[list[Processor]] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def _log_loops_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    where = str(context.get("message", "")).partition("(")[0].partition("\n")[0][:_LONGEST].strip()
    error = context.get("exception")
    log.error("error that nobody waited for", where=where, **(in_short(error) if error is not None else {}))


def _log_last_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        log.critical("the program ends by an error", **in_short(error))


def _log_ignored_error(unraisable: Any) -> None:
    if unraisable.exc_value is not None:
        log.error("error that nobody could be told", **in_short(unraisable.exc_value))


def _log_threads_error(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        log.error("a thread ended by an error", **in_short(args.exc_value))


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    log.warning("python warns", kind=category.__name__, place=[f"{filename}:{lineno}"])
