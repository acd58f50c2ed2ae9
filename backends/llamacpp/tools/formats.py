"""The spellings of a tool call, and which of them a chat template uses.

Which it is shows in what the template makes of a call that was made: whatever reader understands that is the right one.
A template that never mentions a declared tool, or writes calls in a way that nobody here reads, is not asked to: the
model is then told in words (`told`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from backends.llamacpp.tools.calls import CallDelta, CallReader
from backends.llamacpp.tools.gemma4 import QUOTE, Gemma4Reader
from backends.llamacpp.tools.hermes import HermesReader
from backends.llamacpp.tools.splitter import ToolSplitter

Render = Callable[[dict[str, Any]], Awaitable[str | None]]
"""A chat template's text for some variables; None where it refuses them."""

_TOOL_NAME: Final = "probe_function"
_CALL_ID: Final = "probe0000"
_SYSTEM_TEXT: Final = "probe of the system"


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """`opening` and `closing` stand around each call; `markers` are the texts that a reader has to see."""

    name: str
    opening: str
    closing: str
    markers: tuple[str, ...]
    reader: Callable[[bool], CallReader]
    """A reader for one call, which may be held to a grammar."""

    def splitter(self, *, held: bool = False) -> ToolSplitter:
        return ToolSplitter(self.opening, self.closing, lambda: self.reader(held))


HERMES: Final = ToolFormat(
    name="hermes",
    opening="<tool_call>",
    closing="</tool_call>",
    markers=("<tool_call>", "</tool_call>"),
    reader=lambda held: HermesReader(held=held),
)
GEMMA4: Final = ToolFormat(
    name="gemma4",
    opening="<|tool_call>",
    closing="<tool_call|>",
    markers=("<|tool_call>", "<tool_call|>", QUOTE),
    reader=lambda held: Gemma4Reader(held=held),
)
FORMATS: Final = (HERMES, GEMMA4)


@dataclass(frozen=True, slots=True)
class TemplateTools:
    """What a chat template can do. `format` None: it shows no tools, or in no spelling that is read here.

    `takes_results`: it finds results in messages of their own, as OpenAI sends them.
    """

    format: ToolFormat | None
    takes_system: bool
    takes_results: bool = True


async def probe(render: Render) -> TemplateTools:
    """Find out by rendering."""
    user = {"role": "user", "content": "probe"}
    system = await render({"messages": [{"role": "system", "content": _SYSTEM_TEXT}, user]})
    takes_system = system is not None and _SYSTEM_TEXT in system
    shown = await render({"messages": [user], "tools": [_probe_tool()]})
    if shown is None or _TOOL_NAME not in shown:
        return TemplateTools(None, takes_system)
    past = await render({"messages": [user, _probe_call(), user], "tools": [_probe_tool()]})
    format_ = _format_of(past or "")
    if format_ is not GEMMA4:
        return TemplateTools(format_, takes_system)
    result = {"role": "tool", "tool_call_id": _CALL_ID, "content": "probe"}
    past = await render({"messages": [user, _probe_call(), result], "tools": [_probe_tool()]})
    return TemplateTools(format_, takes_system, takes_results=f"response:{_TOOL_NAME}" in (past or ""))


def _format_of(text: str) -> ToolFormat | None:
    for format_ in FORMATS:
        splitter = format_.splitter()
        said = [*splitter.push(text), *splitter.finish()]
        if any(isinstance(piece, CallDelta) and piece.name == _TOOL_NAME for piece in said):
            return format_
    return None


def _probe_tool() -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"x": {"type": "string", "description": "probe"}}, "required": ["x"]}
    return {
        "type": "function",
        "function": {"name": _TOOL_NAME, "description": "probe", "parameters": parameters},
    }


def _probe_call() -> dict[str, Any]:
    call = {"id": _CALL_ID, "type": "function", "function": {"name": _TOOL_NAME, "arguments": {"x": "y"}}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}
