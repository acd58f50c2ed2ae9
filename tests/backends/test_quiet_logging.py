"""Whoever logs, and whatever goes wrong: kinds and places, and never what somebody said."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import sys
import threading
import warnings
from typing import Any

import pytest
import structlog

from backends import quiet_logging

SECRET = "patient-zero-4711"
RENDERERS: dict[str, structlog.typing.Processor] = {
    "json": structlog.processors.JSONRenderer(),
    "console": structlog.dev.ConsoleRenderer(colors=False),
}


class Printed(io.StringIO):
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture(params=["json", "console"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def printed(form: str, monkeypatch: pytest.MonkeyPatch) -> Printed:
    """All that is logged, at the level that shows most, in both forms."""
    printed = Printed()
    monkeypatch.setattr(sys, "stderr", printed)
    quiet_logging.set_up(logging.DEBUG, [RENDERERS[form]])
    return printed


def test_errors_that_came_from_each_other_come_to_an_end() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert quiet_logging.in_short(first)["kind"].startswith("ValueError < KeyError < ")


def fail(said: str = SECRET) -> None:
    try:
        int(said)
    except ValueError as error:
        raise RuntimeError(f"about {said}") from error


def failing() -> RuntimeError:
    try:
        fail()
    except RuntimeError as error:
        return error
    raise AssertionError


def check(printed: Printed, *told: str) -> None:
    text = printed.getvalue()
    assert SECRET not in text
    assert all(word in text for word in told), text


def test_a_librarys_exception_is_its_kind_its_cause_and_its_places(printed: Printed) -> None:
    try:
        fail()
    except RuntimeError:
        logging.getLogger("aiohttp.server").exception("Error handling request from %s", SECRET)
    check(printed, "Error handling request from %s", "RuntimeError < ValueError", " in fail")


def test_our_own_exception_is_the_same(printed: Printed) -> None:
    structlog.get_logger("ours").error("broken", exc_info=failing())
    check(printed, "broken", "RuntimeError < ValueError")


def test_a_text_that_a_library_made_is_its_place(printed: Printed) -> None:
    logging.getLogger("somebody").warning(f"refused {SECRET}")
    check(printed, "somebody", "test_quiet_logging.py:")


def test_our_own_lines_are_whole(printed: Printed) -> None:
    logging.getLogger("weights.hub_cache").info("reading %s", "model.gguf")
    structlog.get_logger("request").info("request", path="/health")
    check(printed, "reading model.gguf", "/health")


def test_what_the_loop_is_told_of(printed: Printed) -> None:
    async def forgotten() -> None:
        fail()

    async def forget() -> None:
        loop = asyncio.get_running_loop()
        quiet_logging.quiet_loop(loop)
        task = loop.create_task(forgotten())
        await asyncio.sleep(0)
        del task
        gc.collect()
        loop.call_soon(fail, f"a callback of {SECRET}")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(forget())
    check(printed, "Task exception was never retrieved", "Exception in callback", "ValueError")


def test_a_thread_that_ends_by_an_error(printed: Printed) -> None:
    threading.excepthook(threading.ExceptHookArgs((RuntimeError, failing(), None, None)))
    check(printed, "a thread ended by an error", "RuntimeError")


def test_the_last_error_of_the_program(printed: Printed) -> None:
    error = failing()
    sys.excepthook(RuntimeError, error, error.__traceback__)
    check(printed, "the program ends by an error", " in fail")


def test_an_error_that_cannot_be_raised(printed: Printed) -> None:
    class Unraisable:
        exc_value = failing()

    sys.unraisablehook(Unraisable)  # type: ignore[arg-type]
    check(printed, "nobody could be told", "RuntimeError")


def test_a_warning_is_its_kind_and_place(printed: Printed) -> None:
    warnings.showwarning(UserWarning(f"odd value {SECRET}"), UserWarning, "somewhere.py", 7)
    check(printed, "UserWarning", "somewhere.py:7")


def test_each_line_is_one_json_object(printed: Printed, form: str) -> None:
    if form == "json":
        logging.getLogger("aiohttp.server").error("line\nbreak %s", SECRET, exc_info=failing())
        (line,) = printed.lines()
        assert line["level"] == "error"
        assert line["kind"] == "RuntimeError < ValueError"
