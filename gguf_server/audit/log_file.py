"""Adding lines to an audit: one process at a time, from where the chain ends, to the file that is there.

What is not as it was left (a line torn by a crash, lines that are gone, a file that somebody changed) is put right
where it can be and always told in a line of its own, a gap, so that the chain goes on and `verify` repeats it. Every
function here blocks. Not for several threads.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gguf_server.audit import entries
from gguf_server.audit.chain import BEGINNING, Fields, Position, seal, unseal
from gguf_server.audit.files import files_of, lines_of
from gguf_server.audit.head import HeadDamaged, read_head, write_head
from gguf_server.audit.secret import AuditError, AuditKeys
from gguf_server.audit.tail import Tail, read_tail


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a file is put beside. `max_bytes` 0 is no limit."""

    daily: bool = True
    max_bytes: int = 0


@dataclass(slots=True)
class _Opened:
    """The file that is written now. `size` is what we left it at, `day` that of its last line before us."""

    descriptor: int
    inode: int
    size: int
    day: str


class LogFile:
    """Held from `open` to `close`. Raises `AuditError` and `OSError`; what was not written can be given again."""

    def __init__(self, path: Path, keys: AuditKeys, rotation: Rotation) -> None:
        self._path = path
        self._keys = keys
        self._rotation = rotation
        self._last: Position | None = None
        self._gaps: list[Fields] = []
        self._file: _Opened | None = None
        self._lock: int | None = None

    @property
    def last(self) -> Position:
        """Where the chain stands."""
        return self._last or BEGINNING

    def open(self) -> None:
        """Take the lock and find the chain's end. Raises `AuditError`, also where another process has the lock."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
            self._file = self._open()
            if not self._gaps:  # else the head is written after the lines that tell of them
                self.sync()
        except OSError as exc:
            raise AuditError(f"{exc.filename or self._path}: {exc.strerror}") from exc

    def append(self, fields: Sequence[Fields]) -> None:
        """All of them, or, with an exception, none. They are on the disk after the next `sync`."""
        file = self._current()
        last = self.last
        lines = []
        for said in [*self._gaps, *fields]:
            line, last = seal(self._keys.chain, last, said)
            lines.append(line)
        block = b"".join(lines)
        try:
            _write(file.descriptor, block)
        except OSError:
            self._take_back(file)
            raise
        file.size += len(block)
        file.day = _today()
        self._last = last
        self._gaps.clear()

    def sync(self) -> None:
        if self._file is not None:
            os.fsync(self._file.descriptor)
            write_head(self._keys.head, self._path, self.last)

    def close(self) -> None:
        self._let_go()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> None:
        path = self._path.with_name(self._path.name + ".lock")
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(self._lock)
            self._lock = None
            raise AuditError(
                f"{self._path}: another server writes this audit; each needs a file of its own in [audit]"
            ) from exc

    def _current(self) -> _Opened:
        """The file to write to now: another one where it is time, or where somebody moved or changed ours."""
        file = self._file
        if file is not None and not self._is_in_place(file):
            os.fsync(file.descriptor)
            self._let_go()
        elif file is not None and os.fstat(file.descriptor).st_size != file.size:
            self._gaps.append(entries.of_event("gap", kind="file_changed", size=file.size))
            self._let_go()
        elif file is not None and self._is_due(file):
            self.sync()
            self._put_beside(file)
        if self._file is None:
            self._file = self._open()
        return self._file

    def _is_in_place(self, file: _Opened) -> bool:
        try:
            return self._path.stat().st_ino == file.inode
        except FileNotFoundError:
            return False

    def _is_due(self, file: _Opened) -> bool:
        if file.size == 0:
            return False
        too_large = 0 < self._rotation.max_bytes <= file.size
        return too_large or (self._rotation.daily and file.day != _today())

    def _put_beside(self, file: _Opened) -> None:
        """Under a name that no other file has: of all files, this one ends with this line."""
        name = f"{self._path.name}.{file.day}.{self.last.seq:09d}"
        while (target := self._path.with_name(name)).exists():
            name += "-again"  # a chain that was begun anew under another key
        self._let_go()
        self._path.rename(target)

    def _let_go(self) -> None:
        if self._file is not None:
            os.close(self._file.descriptor)
            self._file = None

    def _take_back(self, file: _Opened) -> None:
        """Remove what was written of lines that have no room; else the next `append` finds them torn."""
        try:
            os.ftruncate(file.descriptor, file.size)
        except OSError:
            with suppress(OSError):
                self._let_go()
            self._file = None

    def _open(self) -> _Opened:
        """The file at the path, ready for the line after the chain's end."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            status = os.fstat(descriptor)
            tail = read_tail(descriptor)
            if tail.torn:
                self._keep_aside(tail)
                os.ftruncate(descriptor, tail.end)
            self._last = self._end_of_chain(tail)
            _sync_folder(self._path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        day = _day(status.st_mtime) if tail.end else _today()
        return _Opened(descriptor, status.st_ino, tail.end, day)

    def _keep_aside(self, tail: Tail) -> None:
        aside = self._path.with_name(f"{self._path.name}.torn-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(tail.torn)
            file.flush()
            os.fsync(file.fileno())
        self._gaps.append(entries.of_event("gap", kind="torn_line", bytes=len(tail.torn), kept_in=aside.name))

    def _end_of_chain(self, tail: Tail) -> Position:
        """From the head, or what we wrote ourselves, and from the file's last line, which may be further on."""
        known = self._last or self._read_head()
        if tail.last is None:
            return self._last or self._end_of_files_beside(known)
        line = unseal(self._keys.chain, tail.last)
        if line is None:
            if known is None:
                raise AuditError(f"{self._path}: not an audit of this key: move it away, or give its hash_key_file")
            self._gaps.append(entries.of_event("gap", kind="last_line_altered"))
            return known
        if known is None or line.position.seq > known.seq or line.position == known:
            return line.position
        if line.position.seq == known.seq:
            self._gaps.append(entries.of_event("gap", kind="last_line_altered"))
            return known
        self._gaps.append(entries.of_event("gap", kind="lines_missing", first=line.position.seq + 1, last=known.seq))
        return known

    def _end_of_files_beside(self, head: Position | None) -> Position:
        """For a file without lines: it was renamed just before a crash, perhaps, when the head was behind."""
        beside = [path for path in files_of(self._path) if path.stat().st_size]
        last = None
        for raw in lines_of(beside[-1:]):
            last = raw.raw if raw.is_whole else last
        line = unseal(self._keys.chain, last) if last is not None else None
        if head is None and last is not None and line is None:
            raise AuditError(f"{beside[-1]}: not an audit of this key: move it away, or give its hash_key_file")
        known = head or BEGINNING
        return line.position if line is not None and line.position.seq > known.seq else known

    def _read_head(self) -> Position | None:
        """None, and a gap where there should have been one: then the chain may have been longer."""
        try:
            head = read_head(self._keys.head, self._path)
        except HeadDamaged:
            self._gaps.append(entries.of_event("gap", kind="head_damaged"))
            return None
        if head is None and any(path.stat().st_size for path in files_of(self._path)):
            self._gaps.append(entries.of_event("gap", kind="head_missing"))
        return head


def _write(descriptor: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _day(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).date().isoformat()
