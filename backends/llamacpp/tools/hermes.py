"""Reading a call as Hermes and Qwen write it: a JSON object with the function's name and its arguments."""

from __future__ import annotations

import re
from typing import Final

import orjson

from backends.llamacpp.tools.calls import Arguments, Name, Progress
from backends.llamacpp.tools.json_text import ObjectEnd, members

_HEAD: Final = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]+)"\s*,\s*"arguments"\s*:\s*(?=\{)')


class HermesReader:
    """A `CallReader`. While the object is open, the closing marker may stand inside one of its strings."""

    def __init__(self, *, held: bool) -> None:
        self._held = held
        self.progress = Progress.OPEN
        self.text = ""
        self.rest = ""
        self.has_told = False
        self._object = ObjectEnd()
        self._arguments_at = 0
        self._n_told = 0

    def push(self, text: str) -> list[Name | Arguments]:
        self.text += text
        self._object.scan(self.text)
        if self._object.is_impossible:
            self.progress = Progress.BROKEN
            return []
        told = self._tell_pieces() if self._held else []
        if (end := self._object.end) is not None:
            self.rest = self.text[end:]
            told = told if self.has_told else self._tell_whole(self.text[:end])
            self.progress = Progress.WHOLE if self.has_told else Progress.BROKEN
        return told

    def _tell_pieces(self) -> list[Name | Arguments]:
        """The name once the arguments begin right behind it, then what is new of those."""
        told: list[Name | Arguments] = []
        if not self.has_told:
            if (head := _HEAD.match(self.text)) is None:
                return []
            self._arguments_at = self._n_told = head.end()
            self.has_told = True
            told.append(Name(head[1]))
        end = self._object.member_end(self._arguments_at)
        if self._n_told < end:
            told.append(Arguments(self.text[self._n_told : end]))
            self._n_told = end
        return told

    def _tell_whole(self, text: str) -> list[Name | Arguments]:
        """Nothing where it is no call after all."""
        try:
            call = members(text)
            name = orjson.loads(call.get("name", "null"))
            arguments = _arguments(call)
        except ValueError:
            return []
        if not isinstance(name, str) or not name or arguments is None:
            return []
        self.has_told = True
        return [Name(name), Arguments(arguments)]


def _arguments(call: dict[str, str]) -> str | None:
    """The arguments as the text of an object: some models write that text into a string, or `parameters` for it."""
    text = call.get("arguments") or call.get("parameters") or "{}"
    value = orjson.loads(text)
    if isinstance(value, str):
        text, value = value, orjson.loads(value)
    return text if isinstance(value, dict) else None
