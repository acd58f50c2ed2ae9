"""Noticing that files have changed, by looking at them now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeAlias

EVERY_S: Final = 1.0

Signature: TypeAlias = tuple[tuple[str, int, int, int] | tuple[str], ...]


def signature(paths: Iterable[Path]) -> Signature:
    """Changes whenever one of the files does, or comes or goes."""
    return tuple(_of(path) for path in paths)


def _of(path: Path) -> tuple[str, int, int, int] | tuple[str]:
    try:
        stat = path.stat()
    except OSError:
        return (str(path),)
    return str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino


class Changes:
    """Tells one change once, and only when nothing has moved between two looks: editors write in several steps."""

    def __init__(self, now: Signature) -> None:
        self._told = self._last = now

    def look(self, now: Signature) -> bool:
        is_at_rest, self._last = now == self._last, now
        if not is_at_rest or now == self._told:
            return False
        self._told = now
        return True


async def watch(paths: Callable[[], Iterable[Path]], changed: Callable[[], None], *, every_s: float = EVERY_S) -> None:
    """Call `changed` after each change, until cancelled. Which files there are may change as well."""
    changes = Changes(signature(paths()))
    while True:
        await asyncio.sleep(every_s)
        if changes.look(await asyncio.to_thread(lambda: signature(paths()))):
            changed()
