"""How many tokens a prompt has where the engine cannot be asked: by its bytes, erring high.

A letter or space of ASCII counts for a third of a token, a byte of anything beyond ASCII for half a one, everything
else (digits, punctuation) for a whole one. Against the vocabularies of Qwen 2 and 3.5, Llama 3 and Gemma 4 that is
1.5 to 2 times too much for English, Vietnamese and Chinese prose and for source code, about right for numbers, and too
little for random letters (base64) and for older vocabularies in other scripts. Where it is too little, the engine's
own limit holds; where it is too much, a conversation is cut earlier than it had to be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import orjson

_LETTERS: Final = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ \n\r\t"
_NOT_ASCII: Final = bytes(range(128, 256))
_PER_CHAT: Final = 64
_PER_MESSAGE: Final = 16
_PER_IMAGE: Final = 2048


def of_text(text: str) -> int:
    """Tokens of a plain text."""
    data = text.encode(errors="surrogatepass")
    others = data.translate(None, _LETTERS)
    n_single = len(others.translate(None, _NOT_ASCII))
    return math.ceil((len(data) - len(others)) / 3 + (len(others) - n_single) / 2 + n_single)


def of_chat(body: Mapping[str, Any]) -> int:
    """Prompt tokens of `messages` and `tools`, with what a chat template puts around them."""
    n_tokens = _PER_CHAT
    if tools := body.get("tools"):
        n_tokens += of_text(orjson.dumps(tools).decode())
    for message in body["messages"]:
        n_tokens += _PER_MESSAGE + sum(_of_field(value) for value in message.values())
    return n_tokens


def _of_field(value: Any) -> int:
    """Of one field of a message: a text, parts with images among them, tool calls."""
    if isinstance(value, str):
        return of_text(value)
    if isinstance(value, list):
        return sum(_of_part(part) for part in value)
    return 0 if value is None else of_text(orjson.dumps(value).decode())


def _of_part(part: Any) -> int:
    if isinstance(part, dict) and "image" in str(part.get("type")):
        return _PER_IMAGE
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return of_text(part["text"])
    return of_text(orjson.dumps(part).decode())
