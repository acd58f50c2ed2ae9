"""Settings of the page that a person opens."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from gguf_server.settings.base import Strict

UI_PATH: Final = "/ui"


class UiSettings(Strict):
    """The page at /ui of every listener. It holds no secret: whatever it asks for needs the key of who opened it."""

    enabled: bool = Field(True, description="Whether there is a page to chat on and to watch the engines, at /ui.")
