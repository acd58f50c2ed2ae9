"""The keyed hash of what a client asked: equal for equal prompts, and of no use to whoever has not the key."""

from __future__ import annotations

import asyncio
import hmac
from typing import Any, Final

import orjson
from aiohttp import web

from backends.openai_schema import Message
from gguf_server.errors import BadRequest

_MOST_BYTES_ON_LOOP: Final = 16 << 10


class PromptHasher:
    """`kind` is what the API calls the prompt: `messages`, `prompt` or `input`. Large ones are hashed in a thread."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    async def hash(self, kind: str, prompt: Any, *, n_bytes: int) -> str:
        """Hexadecimal digits. `n_bytes` is about how large the prompt is."""
        if n_bytes <= _MOST_BYTES_ON_LOOP:
            return prompt_hash(self._key, kind, prompt)
        return await asyncio.to_thread(prompt_hash, self._key, kind, prompt)


PROMPT_HASHER: Final = web.AppKey("prompt_hasher", PromptHasher)
"""There only while requests are audited."""


def prompt_hash(key: bytes, kind: str, prompt: Any) -> str:
    """HMAC-SHA256 over the prompt as JSON with sorted keys, as the client sent it; what was null counts as absent.

    Raises `BadRequest` for one that cannot be written as JSON again.
    """
    said = [_said(message) for message in prompt] if kind == "messages" else prompt
    try:
        text = orjson.dumps({kind: said}, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as exc:  # it reads what is nested deeper than it writes
        raise BadRequest(f"{kind} is nested too deeply", param=kind) from exc
    return hmac.digest(key, text, "sha256").hex()


def _said(message: Message) -> dict[str, Any]:
    fields = {**message.__dict__, **(message.model_extra or {})}
    return {name: value for name, value in fields.items() if value is not None}
