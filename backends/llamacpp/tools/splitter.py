"""Generated text, in pieces of any size, to content and tool calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from backends.llamacpp.detokenizer import overlap
from backends.llamacpp.tools.calls import CallDelta, CallReader, Name, Progress, new_call_id


class ToolSplitter:
    """Yields content as text and calls as `CallDelta`, in order.

    White space before a call belongs to neither, nor does that at an answer's end behind one. What looks like a call
    and turns out to be none is content, its marker included; so is a call that is cut short before anything of it was
    told.
    """

    def __init__(self, opening: str, closing: str, make_reader: Callable[[], CallReader]) -> None:
        self._opening = opening
        self._closing = closing
        self._make_reader = make_reader
        self._reader: CallReader | None = None
        self._is_closing = False
        self._lead = ""  # what would be content if the call that is being read were none, up to its marker's end
        self._buffer = ""
        self.n_calls = 0

    def push(self, text: str) -> Iterator[str | CallDelta]:
        self._buffer += text
        while self._buffer:
            if self._reader is not None:
                yield from self._read(self._reader)
            elif self._is_closing:
                if not self._close():
                    return
            elif (at := self._buffer.find(self._opening)) >= 0:
                yield from self._take(len(self._buffer[:at].rstrip()))
                self._open()
            else:
                n_certain = len(self._buffer) - overlap(self._buffer, self._opening)
                yield from self._take(len(self._buffer[:n_certain].rstrip()))
                return

    def finish(self) -> Iterator[str | CallDelta]:
        """What was held back and turned out to be text."""
        if self._reader is not None:
            if not self._reader.has_told:
                yield self._lead + self._reader.text
        elif not self._is_closing and (self._buffer.strip() or not self.n_calls):
            yield from self._take(len(self._buffer))

    def _open(self) -> None:
        end = self._buffer.index(self._opening) + len(self._opening)
        self._lead, self._buffer = self._buffer[:end], self._buffer[end:]
        self._reader = self._make_reader()

    def _read(self, reader: CallReader) -> Iterator[str | CallDelta]:
        text, self._buffer = self._buffer, ""
        for told in reader.push(text):
            if isinstance(told, Name):
                self.n_calls += 1
                yield CallDelta(self.n_calls - 1, id=new_call_id(), name=told.text)
            else:
                yield CallDelta(self.n_calls - 1, told.text)
        if reader.progress is Progress.OPEN:
            return
        self._reader = None
        self._is_closing = reader.progress is Progress.WHOLE
        if self._is_closing:
            self._buffer = reader.rest
        else:
            yield self._lead
            self._buffer = reader.text

    def _close(self) -> bool:
        """Drop the closing marker, where one follows the call. False: that cannot be told yet."""
        rest = self._buffer.lstrip()
        if rest.startswith(self._closing):
            self._buffer = rest.removeprefix(self._closing)
        elif self._closing.startswith(rest):
            return False
        self._is_closing = False
        return True

    def _take(self, n_chars: int) -> Iterator[str]:
        text, self._buffer = self._buffer[:n_chars], self._buffer[n_chars:]
        if text:
            yield text
