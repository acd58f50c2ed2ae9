"""Reading a call as Gemma 4 writes it, `call:NAME{key:<|"|>text<|"|>,n:1}`, into JSON.

Strings stand between two `<|"|>` and hold anything else as it is, keys stand bare, and so do numbers, `true`, `false`
and `null`. JSON is made as the text arrives; what it is made of keeps no more than the kind of every open bracket.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import orjson

from backends.llamacpp.detokenizer import overlap
from backends.llamacpp.tools.calls import Arguments, Name, Progress

QUOTE: Final = '<|"|>'
_HEAD: Final = re.compile(r"\s*call:([\w.\-]+)(?=\{)")
_HEAD_SO_FAR: Final = re.compile(r"\s*(c|ca|cal|call|call:[\w.\-]*)?")
_LITERAL: Final = re.compile(r"true|false|null|-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_CLOSING: Final = {"{": "}", "[": "]"}


class Gemma4Reader:
    """A `CallReader`."""

    def __init__(self, *, held: bool) -> None:
        self._held = held
        self.progress = Progress.OPEN
        self.text = ""
        self.rest = ""
        self.has_told = False
        self._name: str | None = None
        self._json = _JsonMaker()
        self._untold = ""

    def push(self, text: str) -> list[Name | Arguments]:
        self.text += text
        told: list[Name | Arguments] = []
        if self._name is None:
            if (head := _HEAD.match(self.text)) is None:
                if _HEAD_SO_FAR.fullmatch(self.text) is None:
                    self.progress = Progress.BROKEN
                return []
            self._name, text = head[1], self.text[head.end() :]
        self._untold += self._json.push(text)
        self.progress = self._json.progress
        self.rest = self._json.rest
        if self.progress is Progress.WHOLE or (self._held and self.progress is Progress.OPEN):
            if not self.has_told:
                self.has_told = True
                told.append(Name(self._name))
            if self._untold:
                told.append(Arguments(self._untold))
                self._untold = ""
        return told


class _JsonMaker:
    """Gemma's spelling of an object in, JSON out. `_expect` is what may come next."""

    def __init__(self) -> None:
        self.progress = Progress.OPEN
        self.rest = ""
        self._brackets: list[str] = []
        self._expect: Callable[[], str | None] = self._value
        self._owes_comma = False
        self._is_key = False

    def push(self, text: str) -> str:
        self.rest += text
        made = ""
        while self.progress is Progress.OPEN and (piece := self._expect()) is not None:
            made += piece
        return made

    # Each of these takes from `rest` what it understands and returns the JSON for it; None: there is not enough yet.

    def _value(self) -> str | None:
        self.rest = self.rest.lstrip()
        if not self.rest or (QUOTE.startswith(self.rest) and self.rest != QUOTE):
            return None
        if self.rest[0] in "{[":
            bracket, self.rest = self.rest[0], self.rest[1:]
            comma = self._comma()
            self._brackets.append(bracket)
            self._expect = self._key if bracket == "{" else self._value
            return comma + bracket
        if self.rest.startswith(QUOTE):
            return self._open_string(is_key=False)
        if self.rest[0] == "]":
            return self._after()
        return self._bare()

    def _key(self) -> str | None:
        self.rest = self.rest.lstrip()
        if not self.rest or (QUOTE.startswith(self.rest) and self.rest != QUOTE):
            return None
        if self.rest[0] == "}":
            return self._after()
        if self.rest.startswith(QUOTE):
            return self._open_string(is_key=True)
        if (at := _first(self.rest, ":{}[]<")) is None:
            return None
        if self.rest[at] != ":":
            return self._give_up()
        key, self.rest = self.rest[:at].strip(), self.rest[at:]
        self._expect = self._colon
        return self._comma() + _quoted(key)

    def _colon(self) -> str | None:
        self.rest = self.rest.lstrip()
        if not self.rest:
            return None
        if self.rest[0] != ":":
            return self._give_up()
        self.rest = self.rest[1:]
        self._owes_comma = False
        self._expect = self._value
        return ": "

    def _open_string(self, *, is_key: bool) -> str:
        self.rest = self.rest[len(QUOTE) :]
        self._is_key = is_key
        self._expect = self._string
        return self._comma() + '"'

    def _string(self) -> str | None:
        at = self.rest.find(QUOTE)
        if at < 0:
            n_certain = len(self.rest) - overlap(self.rest, QUOTE)
            text, self.rest = self.rest[:n_certain], self.rest[n_certain:]
            return _quoted(text)[1:-1] if text else None
        text, self.rest = self.rest[:at], self.rest[at + len(QUOTE) :]
        self._expect = self._colon if self._is_key else self._after
        return _quoted(text)[1:-1] + '"'

    def _bare(self) -> str | None:
        """A number, a word of JSON, or a text that lacks its quotes."""
        if (at := _first(self.rest, ",}]<")) is None:
            return None
        word, self.rest = self.rest[:at].strip(), self.rest[at:]
        if not word or self.rest[0] == "<":
            return self._give_up()
        self._expect = self._after
        return self._comma() + (word if _LITERAL.fullmatch(word) else _quoted(word))

    def _after(self) -> str | None:
        self.rest = self.rest.lstrip()
        if not self.rest:
            return None
        mark, self.rest = self.rest[0], self.rest[1:]
        if mark == ",":
            self._owes_comma = True
            self._expect = self._key if self._brackets[-1] == "{" else self._value
            return ""
        if mark != _CLOSING[self._brackets.pop()]:
            return self._give_up()
        self._owes_comma = False
        self._expect = self._after
        if not self._brackets:
            self.progress = Progress.WHOLE
        return mark

    def _comma(self) -> str:
        comma, self._owes_comma = (", " if self._owes_comma else ""), False
        return comma

    def _give_up(self) -> str:
        self.progress = Progress.BROKEN
        return ""


def _first(text: str, marks: str) -> int | None:
    """Where the first of `marks` stands."""
    return min((at for mark in marks if (at := text.find(mark)) >= 0), default=None)


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()
