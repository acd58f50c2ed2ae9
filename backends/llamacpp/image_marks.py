"""Where images go in a rendered prompt: marks that nobody can guess are rendered in their places."""

from __future__ import annotations

import re
import secrets
from typing import Any

from backends.llamacpp.chat_template import TemplateError
from backends.llamacpp.image_sources import url_of


class ImageMarks:
    """Marks for the images of one request, whose addresses are `urls`. A user's text never holds one."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self._nonce = secrets.token_hex(16)

    def add(self, part: dict[str, Any]) -> str:
        """The text that stands for an image, given as a part of a message. Raises `ImageError`."""
        self.urls.append(url_of(part))
        return f"\ue000{self._nonce}:{len(self.urls) - 1}\ue001"

    def split(self, rendered: str) -> list[str | int]:
        """Texts and, between them, numbers of images. Raises `TemplateError` where an image got lost."""
        if not self.urls:
            return [rendered]
        parts = re.split(f"\ue000{self._nonce}:([0-9]+)\ue001", rendered)
        split = [part if i % 2 == 0 else int(part) for i, part in enumerate(parts)]
        if {part for part in split if isinstance(part, int)} != set(range(len(self.urls))):
            raise TemplateError("the chat template leaves an image out")
        return split


def in_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose text is a list of one part: how some templates of models that see want it."""
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
