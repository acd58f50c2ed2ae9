"""The server-sent events of an OpenAI stream, as bytes.

Marks are looked for in the bytes: inside a text every quote is escaped, so none of them can be part of what a model
says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import orjson

END: Final = b"\n\n"
DATA: Final = b"data: "
DONE: Final = b"data: [DONE]\n\n"

_ERROR: Final = b'data: {"error":'
_ANY_REASONING: Final = b'"reasoning'
_REASONING: Final = re.compile(rb'"reasoning": ?"')
_REASONING_CONTENT: Final = re.compile(rb'"reasoning_content": ?"')
_BEGINNINGS: Final = (b"data:", b":", b"event:")
_NO_CHOICES: Final = (b'"choices":[]', b'"choices": []')


def needs_reading(whole: bytes) -> bool:
    """Whether some event of these cannot be passed on as it is: the usage, an error, reasoning spelt one way only."""
    return (
        _NO_CHOICES[0] in whole
        or _NO_CHOICES[1] in whole
        or _ERROR in whole
        or (_ANY_REASONING in whole and _has_one_spelling(whole))
    )


def looks_sound(whole: bytes) -> bool:
    return whole.startswith(_BEGINNINGS)


def split(whole: bytes) -> Iterator[bytes]:
    """Each event with its end."""
    for event in whole.split(END)[:-1]:
        yield event + END


def encode(event: dict[str, Any]) -> bytes:
    return DATA + orjson.dumps(event) + END


def is_error(event: bytes) -> bool:
    return event.startswith(_ERROR)


def has_no_choices(event: bytes) -> bool:
    return any(mark in event for mark in _NO_CHOICES)


def decode(event: bytes) -> dict[str, Any] | None:
    """The object of one event; None for `[DONE]`, comments, and what is not JSON."""
    if not event.startswith(DATA):
        return None
    try:
        value = orjson.loads(event[len(DATA) :])
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def usage_of(event: bytes) -> dict[str, Any]:
    return (decode(event) or {}).get("usage") or {}


def spell_reasoning_twice(event: bytes) -> bytes:
    """`reasoning_content` and `reasoning` are two spellings that clients look for; most engines write one of them."""
    if not _has_one_spelling(event) or (chunk := decode(event)) is None:
        return event
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta")
        if isinstance(delta, dict) and (reasoning := delta.get("reasoning") or delta.get("reasoning_content")):
            delta["reasoning"] = delta["reasoning_content"] = reasoning
    return encode(chunk)


def _has_one_spelling(whole: bytes) -> bool:
    return bool(_REASONING.search(whole)) is not bool(_REASONING_CONTENT.search(whole))
