"""From a request's `tools`, `tool_choice` and `parallel_tool_calls` to what may be called."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from backends.llamacpp.tools.calls import Tool, ToolUse

_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_ANYTHING: Final[Mapping[str, Any]] = {"type": "object", "properties": {}}


class ToolError(Exception):
    """`param` is the field at fault. The message never repeats what was sent."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}")
        self.param = param


def tool_use(tools: Sequence[Mapping[str, Any]] | None, choice: object, *, parallel: bool) -> ToolUse | None:
    """None where nothing may be called; a function that is named is called once. Raises `ToolError`."""
    declared = tuple(_tool(tool, f"tools.{i}") for i, tool in enumerate(tools or ()))
    if len({tool.name for tool in declared}) < len(declared):
        raise ToolError("tools", "two of them have the same name")
    if choice == "none" or (choice in (None, "auto") and not declared):
        return None
    if not declared:
        raise ToolError("tool_choice", "a tool has to be called, and there are no tools")
    if isinstance(choice, Mapping):
        return ToolUse((_chosen(declared, choice),), required=True, parallel=False)
    return ToolUse(declared, required=choice == "required", parallel=parallel)


def _tool(tool: Mapping[str, Any], at: str) -> Tool:
    if tool.get("type") != "function":
        raise ToolError(f"{at}.type", "only functions can be called here: it has to be 'function'")
    function = tool.get("function")
    if not isinstance(function, Mapping):
        raise ToolError(f"{at}.function", "an object with the function's name is missing")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ToolError(f"{at}.function.name", "1 to 64 letters, digits, dots, underscores or dashes")
    if not isinstance(function.get("description"), str | None):
        raise ToolError(f"{at}.function.description", "it has to be a text")
    parameters = function.get("parameters")
    if not isinstance(parameters, Mapping | None):
        raise ToolError(f"{at}.function.parameters", "a JSON schema is an object")
    if (parameters or {}).get("type", "object") != "object":
        raise ToolError(f"{at}.function.parameters.type", "arguments are an object: the type has to be 'object'")
    return Tool(name, {"type": "object", **parameters} if parameters else _ANYTHING, f"{at}.function.parameters")


def _chosen(declared: tuple[Tool, ...], choice: Mapping[str, Any]) -> Tool:
    function = choice.get("function")
    if choice.get("type", "function") != "function" or not isinstance(function, Mapping):
        raise ToolError("tool_choice", "'none', 'auto', 'required', or an object of type 'function' that names one")
    for tool in declared:
        if tool.name == function.get("name"):
            return tool
    raise ToolError("tool_choice.function.name", "no tool of this name is declared")
