from __future__ import annotations

import io

import pytest

from bench.records.record import ClosedLoad, Run
from bench.suites.display import Display, showing
from bench.suites.schedule import Slot
from bench.suites.suite import WorkloadSpec

SLOT = Slot("[a]", WorkloadSpec(name="words", kind="words", streams=(4,)), ClosedLoad(4), 8, 1)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def tell(display: Display) -> None:
    display.plan(12)
    display.doing("starting [a]")
    display.note("b [x] is left out")
    display.begin(SLOT)
    display.answered()
    display.end(SLOT, Run("[a]", "words", SLOT.load, 1, {"output_tok_per_s": 40.04, "errors": 1.0}, {"http_503": 1}))


def test_elsewhere_than_on_a_terminal_each_thing_is_a_line() -> None:
    out = io.StringIO()
    with showing(out) as display:
        tell(display)
    assert out.getvalue().splitlines() == [
        "starting [a]",
        "note: b [x] is left out",
        "[1/12] [a], words, 4 streams, repetition 2: 40.0 tok/s, 1 errors (http_503)",
    ]


def test_on_a_terminal_there_are_bars_below_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    out = Terminal()
    with showing(out) as display:
        tell(display)
    assert "1/12" in out.getvalue()
    assert "[a], words, 4 streams, repetition 2: 40.0 tok/s, 1 errors (http_503)" in out.getvalue()
    assert "note: b [x] is left out" in out.getvalue()
