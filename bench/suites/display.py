"""What is shown while a suite runs: a bar on a terminal, plain lines elsewhere. Never anything that was said."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench.records.record import Run
from bench.suites.schedule import Slot, load_name

_TOLD: Final = {"output_tok_per_s": "{:.1f} tok/s", "ttft_s_p50": "first token {:.2f} s", "errors": "{:.0f} errors"}
_REFRESHES_PER_S: Final = 2
"""Drawing takes time from the client, whose clock this is."""


class Display(Protocol):
    """Told by the suite's one task of what it does."""

    def plan(self, n_runs: int) -> None:
        """How many there are in all; again where targets are left out."""

    def doing(self, what: str) -> None:
        """Something that takes a while, such as a server's start."""

    def note(self, text: str) -> None:
        """What a reader of the result will be told too."""

    def begin(self, slot: Slot) -> None: ...

    def answered(self) -> None:
        """One more request of the run has ended."""

    def end(self, slot: Slot, run: Run) -> None: ...


class Lines:
    """A line for each thing that has happened."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._n_runs = self._n_done = 0

    def plan(self, n_runs: int) -> None:
        self._n_runs = n_runs

    def doing(self, what: str) -> None:
        self._say(what)

    def note(self, text: str) -> None:
        self._say(f"note: {text}")

    def begin(self, slot: Slot) -> None:
        pass

    def answered(self) -> None:
        pass

    def end(self, slot: Slot, run: Run) -> None:
        self._n_done += 1
        self._say(f"[{self._n_done}/{self._n_runs}] {told(slot, run)}")

    def _say(self, line: str) -> None:
        print(line, file=self._out, flush=True)


class Bars:
    """All runs as one bar, the running one as another; finished ones scroll by above."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._all: TaskID = progress.add_task("runs", total=None)
        self._now: TaskID = progress.add_task("", total=None, visible=False)

    def plan(self, n_runs: int) -> None:
        self._progress.update(self._all, total=n_runs)

    def doing(self, what: str) -> None:
        self._progress.reset(self._now, description=what, total=None, visible=True)

    def note(self, text: str) -> None:
        self._progress.console.print(f"note: {text}", style="yellow", markup=False, highlight=False)

    def begin(self, slot: Slot) -> None:
        what = f"{slot.target}, {slot.workload.name}, {load_name(slot.load)}"
        self._progress.reset(self._now, description=what, total=None, visible=True)

    def answered(self) -> None:
        self._progress.advance(self._now)

    def end(self, slot: Slot, run: Run) -> None:
        self._progress.advance(self._all)
        self._progress.console.print(told(slot, run), markup=False, highlight=False)


@contextmanager
def showing(out: TextIO = sys.stderr) -> Iterator[Display]:
    console = Console(file=out)
    if not console.is_terminal:
        yield Lines(out)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=_REFRESHES_PER_S) as progress:
        yield Bars(progress)


def told(slot: Slot, run: Run) -> str:
    """A finished run in one line."""
    where = f"{slot.target}, {slot.workload.name}, {load_name(slot.load)}, repetition {slot.repetition + 1}"
    figures = (
        ("output_tok_per_s", "{:.1f} tok/s"),
        ("ttft_s_p50", "first token {:.2f} s"),
        ("errors", "{:.0f} errors"),
    )
    said = [shape.format(run.figures[name]) for name, shape in figures if run.figures.get(name)]
    kinds = ", ".join(run.error_kinds)
    return f"{where}: {', '.join(said) or 'no figures'}{f' ({kinds})' if kinds else ''}"
