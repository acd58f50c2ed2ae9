"""What is wrong with a chain: lines that were altered, removed, inserted or reordered, and where.

    seen where                          what is said
    a line whose seal is not right      altered, or not written by this server
    a number that skips some            those lines are missing
    a number that was there before      repeated, or out of its order
    `prev` is not the line before       of another chain: a copy was put back and went on
    the first line is not number 1      what came before is not here
    the head is further than the end    lines were cut off at the end
    a gap that the server recorded      what it found when it opened the file

What cannot be seen: that the end of the chain *and* the head were put back together to what they were at some moment
before. Whoever needs that too keeps the number of the last line elsewhere: the server's log has it at each start and
stop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from gguf_server.audit.chain import BEGINNING, Line, Position, unseal
from gguf_server.audit.files import RawLine

_HARMLESS_GAPS: Final = frozenset({"torn_line", "not_written"})


@dataclass(frozen=True, slots=True)
class Finding:
    """`where` is a file and line, or ""."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


@dataclass(slots=True)
class Verdict:
    """`faults` are what a sound audit has none of; `notes` are worth knowing. `last`: where the chain ends."""

    n_lines: int = 0
    last: Position = BEGINNING
    faults: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not self.faults


def verify(key: bytes, lines: Iterable[RawLine], head: Position | None, *, is_partial: bool = False) -> Verdict:
    """`head` None: there is none. `is_partial`: older files were put away on purpose, and there may be no head."""
    chain = _Chain(key, is_partial)
    for raw in lines:
        chain.follow(raw)
    chain.end(head)
    return chain.verdict


class _Chain:
    """One walk along the lines. After a fault it goes on as if the line that was found were the right one."""

    def __init__(self, key: bytes, is_partial: bool) -> None:
        self._key = key
        self._is_partial = is_partial
        self._unread = 0  # lines since the last sound one, whose numbers are unknown
        self._unfinished: Finding | None = None
        self.verdict = Verdict()

    def follow(self, raw: RawLine) -> None:
        self.verdict.n_lines += 1
        if self._unfinished is not None:
            is_last_of_file = raw.number == 1
            (self.verdict.notes if is_last_of_file else self.verdict.faults).append(self._unfinished)
            self._unfinished = None
        where = f"{raw.path}:{raw.number}"
        if not raw.is_whole:
            self._unfinished = Finding(where, "not finished: being written just now, or torn by a crash")
            return
        line = unseal(self._key, raw.raw)
        if line is None:
            self._unread += 1
            self._fault(where, "altered, or not a line of this server")
            return
        self._place(where, line)
        if line.fields.get("event") == "gap":
            self._report_gap(where, line)
        self._unread = 0

    def end(self, head: Position | None) -> None:
        last = self.verdict.last
        if self._unfinished is not None:
            self.verdict.notes.append(self._unfinished)
        if head is None:
            finding = Finding("", "there is no head file: lines cut off at the end cannot be told")
            (self.verdict.notes if self._is_partial else self.verdict.faults).append(finding)
        elif head.seq > last.seq:
            self._fault("", f"lines {last.seq + 1} to {head.seq} are missing at the end")
        elif head.seq == last.seq and head.mac != last.mac:
            self._fault("", "the head file speaks of another last line: this is a copy that went on, or an older head")

    def _place(self, where: str, line: Line) -> None:
        last, found = self.verdict.last, line.position
        n_skipped = found.seq - last.seq - 1
        if found.seq <= last.seq:
            self._fault(where, f"line {found.seq} is repeated or out of its order: line {last.seq} came before")
            return
        if last == BEGINNING and self._unread == 0 and n_skipped:
            beginning = Finding(where, f"begins with line {found.seq}: lines 1 to {found.seq - 1} are not here")
            (self.verdict.notes if self._is_partial else self.verdict.faults).append(beginning)
        elif n_skipped > self._unread:
            some = "" if not self._unread else f", besides the {self._unread} before this that cannot be read"
            self._fault(where, f"{n_skipped - self._unread} of lines {last.seq + 1} to {found.seq - 1} missing{some}")
        elif n_skipped == 0 and line.prev != last.mac:
            self._fault(where, f"line {found.seq} was not written after this line {last.seq}, but after another")
        self.verdict.last = found

    def _report_gap(self, where: str, line: Line) -> None:
        said = ", ".join(f"{name} {value}" for name, value in line.fields.items() if name not in ("event", "kind"))
        kind = str(line.fields.get("kind"))
        finding = Finding(where, f"the server recorded a gap: {kind.replace('_', ' ')} ({said})")
        (self.verdict.notes if kind in _HARMLESS_GAPS else self.verdict.faults).append(finding)

    def _fault(self, where: str, what: str) -> None:
        self.verdict.faults.append(Finding(where, what))
