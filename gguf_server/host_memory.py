"""What this machine's memory has free, and what a process with all its children holds of it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

_GROUPS: Final = Path("/sys/fs/cgroup")
_MEMBERSHIP: Final = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class _Kind:
    """Where one version of Linux' control groups keeps a group's figures."""

    marks: str
    folder: str
    limit: str
    used: str
    files: tuple[str, str]


_KINDS: Final = (
    _Kind("0::/", "", "memory.max", "memory.current", ("inactive_file", "active_file")),
    _Kind(
        ":memory:/",
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)


def free_bytes(*, groups: Path = _GROUPS, membership: Path = _MEMBERSHIP) -> int:
    """What may be taken without swapping: of the machine, or less where a container has a limit."""
    limits = [_free_in(folder, kind) for kind in _KINDS for folder in _folders(kind, groups, membership)]
    return min([psutil.virtual_memory().available, *(limit for limit in limits if limit is not None)])


def rss_bytes(pid: int) -> int | None:
    """Resident memory of a process and everything below it; None where it has ended."""
    try:
        first = psutil.Process(pid)
        family = [first, *first.children(recursive=True)]
    except psutil.Error:
        return None
    n_bytes = 0
    for process in family:
        with suppress(psutil.Error):
            n_bytes += process.memory_info().rss
    return n_bytes


def pids(pid: int) -> frozenset[int]:
    """Of a process and everything below it."""
    try:
        return frozenset({pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))})
    except psutil.Error:
        return frozenset({pid})


def _folders(kind: _Kind, groups: Path, membership: Path) -> list[Path]:
    """Of the control group that this process is in, and of those above it, as far as they can be seen from here."""
    try:
        lines = membership.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    path = next((Path(line.partition(kind.marks)[2]) for line in lines if kind.marks in line), None)
    if path is None or ".." in path.parts:
        return []
    return [groups / kind.folder / folder for folder in (path, *path.parents)]


def _free_in(folder: Path, kind: _Kind) -> int | None:
    """None where there is no limit. Files in the cache go before the limit is felt."""
    try:
        limit = int((folder / kind.limit).read_text())
        used = int((folder / kind.used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, limit - used + sum(int(stat.get(name, 0)) for name in kind.files))
    except (OSError, ValueError):  # "max" is no number
        return None
