"""How a transfer looks on a terminal: one line for each file, with a bar while it runs."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class TransferDisplay:
    """A `weights.pull.Progress`. Away from a terminal each file is told once, when it is begun."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> TransferDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, name: str, n_bytes: int, *, is_check: bool) -> None:
        what = f"checking {name}" if is_check else name
        self._task = self._progress.add_task(what, total=n_bytes)
        if not self._console.is_terminal:
            self._console.print(f"{what} ({decimal(n_bytes)})", markup=False, highlight=False, soft_wrap=True)

    def reach(self, n_bytes: int) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=n_bytes)
