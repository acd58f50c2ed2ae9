"""JSON as text that arrives in pieces: where an object ends, and what its members look like unchanged."""

from __future__ import annotations

import json
import re
from typing import Final

import orjson

_INSIDE_STRING: Final = re.compile(r'[^"\\]*')
_BETWEEN: Final = re.compile(r'[^"{}\[\]<]*')
_BLANK: Final = re.compile(r"[ \t\r\n]*")
_DECODER: Final = json.JSONDecoder()


class ObjectEnd:
    """Where the object ends that a text begins with. It looks at brackets and strings, and at nothing else."""

    def __init__(self) -> None:
        self.end: int | None = None
        self.is_impossible = False
        self._at = 0
        self._depth = 0
        self._in_string = False
        self._is_escaped = False
        self._member_ends: list[int] = []

    def scan(self, text: str) -> None:
        """Read on to the end of `text`, which begins as it did before."""
        while self._at < len(text) and self.end is None and not self.is_impossible:
            if self._in_string:
                self._scan_string(text)
            elif self._depth == 0:
                self._scan_beginning(text)
            else:
                self._scan_between(text)

    def member_end(self, start: int) -> int:
        """Where the outermost object's member that begins at `start` ends, or how far it has been read."""
        return next((end for end in self._member_ends if end > start), self._at)

    def _scan_beginning(self, text: str) -> None:
        self._at = _end(_BLANK, text, self._at)
        if self._at < len(text):
            self.is_impossible = text[self._at] != "{"
            self._depth = 1
            self._at += 1

    def _scan_string(self, text: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
            self._at += 1
            return
        self._at = _end(_INSIDE_STRING, text, self._at)
        if self._at < len(text):
            self._is_escaped = text[self._at] == "\\"
            self._in_string = self._is_escaped
            self._at += 1

    def _scan_between(self, text: str) -> None:
        self._at = _end(_BETWEEN, text, self._at)
        if self._at == len(text):
            return
        char = text[self._at]
        self._at += 1
        if char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            if self._depth == 1:
                self._member_ends.append(self._at)
            elif self._depth == 0:
                self.end = self._at
        else:  # the beginning of a marker
            self.is_impossible = True


def members(text: str) -> dict[str, str]:
    """The members of an object, each value as it stands in `text`. Raises `ValueError`."""
    if not isinstance(orjson.loads(text), dict):
        raise ValueError("not an object")  # noqa: TRY004 - it is a text that says the wrong thing
    found: dict[str, str] = {}
    at = _end(_BLANK, text, 0) + 1
    try:
        while text[at := _end(_BLANK, text, at)] != "}":
            at = _end(_BLANK, text, at + 1) if text[at] == "," else at
            name, at = _DECODER.raw_decode(text, at)
            start = _end(_BLANK, text, _end(_BLANK, text, at) + 1)
            _, at = _DECODER.raw_decode(text, start)
            found[name] = text[start:at]
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return found


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match is not None else at
