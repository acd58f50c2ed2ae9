"""Messages and tools as one model's chat template takes them."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from backends.llamacpp.tools.formats import HERMES, Render, TemplateTools, ToolFormat, probe
from backends.llamacpp.tools.gemma4_turns import with_results_in_calls
from backends.llamacpp.tools.told import told

Json = dict[str, Any]


class Shown(NamedTuple):
    """What a template is given, and how a call is written in answer to it."""

    messages: list[Json]
    tools: list[Json] | None
    format: ToolFormat


class ToolTemplate:
    """What the template can do is found out when the first tool comes."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self._can: TemplateTools | None = None
        self._probing = asyncio.Lock()

    async def show(self, messages: list[Json], tools: list[Json], *, offered: bool) -> Shown:
        """A template that knows tools shows them also where none is `offered`: messages may hold their calls."""
        if not tools and not any(message["role"] == "tool" or "tool_calls" in message for message in messages):
            return Shown(messages, None, HERMES)
        async with self._probing:
            self._can = can = self._can or await probe(self._render)
        if can.format is None:
            said = told(messages, tools if offered else [], takes_system=can.takes_system)
            return Shown(said, None, HERMES)
        return Shown(messages if can.takes_results else with_results_in_calls(messages), tools or None, can.format)
