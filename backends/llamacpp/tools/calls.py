"""The tools of one request, the choice among them, and what is told of a call while it is written."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is the JSON schema of its arguments, which are an object."""

    name: str
    parameters: Mapping[str, Any]
    param: str
    """Where in the request its parameters stand: for errors."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """`tools` that may be called: all, or the one that was chosen. `required`: the answer has to be a call."""

    tools: tuple[Tool, ...]
    required: bool
    parallel: bool


@dataclass(frozen=True, slots=True)
class CallDelta:
    """More of the call `index` of an answer. Its first delta has `id` and `name`; arguments are JSON text in pieces."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


def new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


class Progress(Enum):
    """Of a call that is being read."""

    OPEN = "open"
    WHOLE = "whole"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Name:
    """The function that is called: certain before any of its arguments."""

    text: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """A piece of the arguments as JSON text."""

    text: str


class CallReader(Protocol):
    """Reads one call behind its opening marker, in pieces of any size.

    A reader of calls that are `held` to a grammar tells at once what it reads. Any other tells nothing until the call
    is whole, for it may turn out to be none. A call that is broken has told nothing, unless it was held.
    """

    @property
    def progress(self) -> Progress: ...

    @property
    def text(self) -> str:
        """All that it was given."""
        ...

    @property
    def rest(self) -> str:
        """What it was given beyond the end of a whole call."""
        ...

    @property
    def has_told(self) -> bool:
        """Whether anything of the call has been told."""
        ...

    def push(self, text: str) -> list[Name | Arguments]: ...
