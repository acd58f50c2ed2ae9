"""Holding calls to their tools' schemas, and an answer to calls where there has to be one.

    choice     the answer                                   a call
    auto       anything; it may end or go on without calls  behind its opening marker, held to the schemas
    required   calls and nothing else                       the same, from the first token on

Where thoughts may come first, all of this begins behind them. A schema that no grammar can be made of leaves a tool's
arguments free, as long as they are an object; where a call is required it is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from backends.llamacpp.grammar import Grammar, GrammarCompiler
from backends.llamacpp.grammar_errors import GrammarError
from backends.llamacpp.guide import MakeGuide
from backends.llamacpp.tools.calls import Tool, ToolUse
from backends.llamacpp.tools.declared import ToolError
from backends.llamacpp.tools.formats import GEMMA4, ToolFormat
from backends.llamacpp.tools.gemma4 import QUOTE
from backends.llamacpp.tools.gemma4_grammar import Gemma4Rules

_LAYOUT: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_ANY_OBJECT: Final[Mapping[str, Any]] = {"type": "object"}
_PLAIN_KEYS: Final = frozenset({"type", "properties", "required", "title", "description", "$schema", "$defs"})


@dataclass(frozen=True, slots=True)
class Held:
    """`make` makes the guide of one answer, None where there can be none: then calls are not held to anything."""

    make: MakeGuide | None
    may_end: bool


class CallGrammars:
    """What calls of one model are held to."""

    def __init__(self, compiler: GrammarCompiler, format_: ToolFormat) -> None:
        self._compiler = compiler
        self._format = format_

    async def hold(self, use: ToolUse) -> Held:
        """Raises `ToolError` for parameters that are no schema or, where a call is required, cannot be compiled."""
        tools = [await self._compilable(tool, strict=use.required) for tool in use.tools]
        try:
            return await (self._required(tools, use) if use.required else self._auto(tools, use))
        except GrammarError as error:
            if use.required:
                raise ToolError("tools", error.message) from None
            return Held(None, may_end=True)

    async def _required(self, tools: list[Tool], use: ToolUse) -> Held:
        opening = self._compiler.marker(self._format.opening)
        between = self._between
        more = f"({between} {opening} {between} body)*" if use.parallel else ""
        start = f"start: {opening} {between} body {more}"
        return Held((await self._compile(start, tools)).begin, may_end=False)

    async def _auto(self, tools: list[Tool], use: ToolUse) -> Held:
        body = await self._compile("start: body", tools)
        opening = self._format.opening
        rule = await self._compiler.after_marker(opening, body.begin, may_end=True, again=use.parallel)
        return Held(rule.begin_inside, may_end=True)

    async def _compilable(self, tool: Tool, *, strict: bool) -> Tool:
        """The tool as it can be held to: with a looser schema where its own cannot be compiled and need not be."""
        try:
            await self._compiler.json_schema(tool.parameters)
            await self._compile("start: body", [tool])
        except GrammarError as error:
            if strict:
                at = tool.param + error.place.replace("/", ".")
                raise ToolError(at, error.message) from None
            return replace(tool, parameters=_ANY_OBJECT)
        return tool

    async def _compile(self, start: str, tools: list[Tool]) -> Grammar:
        """A grammar with the rule `body`: a call of one of the tools behind its opening marker."""
        names = " | ".join(f"call_{i}" for i in range(len(tools)))
        closing = self._compiler.marker(self._format.closing)
        lines = [start, f"body: ({names}) {self._between} {closing}"]
        for i, tool in enumerate(tools):
            lines += self._gemma4(tool, i) if self._format is GEMMA4 else self._hermes(tool, i)
        return await self._compiler.lark("\n".join(lines) + "\n")

    @property
    def _between(self) -> str:
        """What stands between a marker and what it marks."""
        return '""' if self._format is GEMMA4 else r'"\n"'

    @staticmethod
    def _hermes(tool: Tool, i: int) -> list[str]:
        head = json.dumps(f'{{"name": {json.dumps(tool.name)}, "arguments": ')
        schema = json.dumps({**_closed(tool.parameters), "x-guidance": _LAYOUT})
        return [f'call_{i}: {head} arguments_{i} "}}"', f"arguments_{i}: %json {schema}"]

    def _gemma4(self, tool: Tool, i: int) -> list[str]:
        rules = Gemma4Rules(self._compiler.marker(QUOTE), f"value_{i}", _closed(tool.parameters))
        return [f"call_{i}: {json.dumps(f'call:{tool.name}')} {rules.arguments()}", *rules.lines]


def _closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments that are not declared are none, unless the schema speaks of them."""
    return (
        {**schema, "additionalProperties": False} if "properties" in schema and schema.keys() <= _PLAIN_KEYS else schema
    )
