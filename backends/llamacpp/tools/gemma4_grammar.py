"""From a JSON schema to a Lark grammar of the same values as Gemma 4 spells them.

Numbers are spelled as in JSON: llguidance's own rules for them serve. An object's properties come in the order in
which Gemma's template shows them, and none but those that are named. `format` is no more than an annotation, as JSON
Schema has it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from llguidance import regex_to_lark

from backends.llamacpp.grammar_errors import GrammarError
from backends.llamacpp.tools.gemma4 import QUOTE

_NUMBER_KEYS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_UNSUPPORTED: Final = (
    "allOf",
    "contains",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxProperties",
    "minProperties",
    "not",
    "patternProperties",
    "prefixItems",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
)
_WHOLE: Final = ("$ref", "anyOf", "oneOf", "const", "enum")
_BARE_KEY: Final = re.compile(r"[\w.$\-]+(?: [\w.$\-]+)*")
_TYPES: Final = ("string", "number", "integer", "boolean", "null", "array", "object")
_MAX_RULES: Final = 5_000

Schema = Mapping[str, Any] | bool


class Gemma4Rules:
    """Makes rules for one tool's arguments; `lines` are those made so far. `quote` is how Lark writes the quotes.

    `prefix` keeps the names apart from another tool's. Every method that takes a schema returns the name of the rule
    for its values, or raises `GrammarError`.
    """

    def __init__(self, quote: str, prefix: str, root: Mapping[str, Any]) -> None:
        self.lines: list[str] = []
        self._quote = quote
        self._prefix = prefix
        self._root = root
        self._by_ref: dict[str, str] = {}
        # Quotes that are letters could come about inside a text: what they begin with may not stand in one.
        self._char = "(?s:.)" if quote.startswith("<[") else "[^<]"
        self._anything: str | None = None
        self._n_names = 0

    def arguments(self) -> str:
        _check(self._root, also=_WHOLE)
        return self._object(self._root)

    def value(self, schema: Schema) -> str:
        if isinstance(schema, bool):
            if not schema:
                raise GrammarError("nothing fits it")
            return self._any()
        if len(ways := schema.get("allOf", ())) == 1:
            return self.value(ways[0])
        _check(schema)
        if "$ref" in schema:
            return self._ref(schema["$ref"])
        if "const" in schema:
            return self._literal(schema["const"])
        if "enum" in schema:
            return self._either([self._literal(value) for value in _list(schema["enum"])])
        if (ways := schema.get("anyOf", schema.get("oneOf"))) is not None:
            _check(schema, also=("properties", "required", "items"))
            return self._either([self.value(way) for way in _list(ways)])
        type_ = schema.get("type", _TYPES if self._restricts(schema) else None)
        if isinstance(type_, str):
            return self._of_type(type_, schema)
        return self._any() if type_ is None else self._either([self._of_type(one, schema) for one in type_])

    def _of_type(self, type_: str, schema: Mapping[str, Any]) -> str:
        match type_:
            case "string":
                return self._string(schema)
            case "number" | "integer":
                kept = {key: schema[key] for key in _NUMBER_KEYS if key in schema}
                return self._rule(f"%json {json.dumps({'type': type_, **kept})}")
            case "boolean":
                return self._rule('"true" | "false"')
            case "null":
                return self._rule('"null"')
            case "array":
                return self._array(schema)
            case "object":
                return self._object(schema)
            case _:
                raise GrammarError("type is none of JSON's")

    def _string(self, schema: Mapping[str, Any]) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength", "")
        parts = [f"{self._char}{{{least},{most}}}"] if least or most != "" else []
        if (pattern := schema.get("pattern")) is not None:
            parts.append(_whole(pattern, self._char))
        text = " & ".join(f"/{part}/" for part in parts) or f"/{self._char}*/"
        name = self._name().upper()
        self.lines.append(f"{name}: {text}")
        return self._rule(f"{self._quote} {name} {self._quote}")

    def _array(self, schema: Mapping[str, Any]) -> str:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if most == 0:
            return self._rule('"[]"')
        item = self.value(schema.get("items", True))
        more = f"{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
        items = f'{item} ("," {item}){more}'
        return self._rule(f'"[" {items} "]"' if least else f'"[" ({items})? "]"')

    def _object(self, schema: Mapping[str, Any]) -> str:
        properties = schema.get("properties") or {}
        required = {*_list(schema.get("required", []))}
        other = schema.get("additionalProperties", True)
        if not properties and not required:
            return self._rule('"{}"') if other is False else self._map(other)
        named = {**dict.fromkeys(required, other), **properties}
        # `rest`: what may follow a property; `first`: what an object may hold from here on. From the last to the first.
        rest, first = self._rule('""'), self._rule('""')
        for key in sorted(named, key=str.lower, reverse=True):
            pair = self._rule(f'{self._key(key)} ":" {self.value(named[key])}')
            is_required = key in required
            first = self._rule(f"{pair} {rest}" + ("" if is_required else f" | {first}"))
            rest = self._rule(f'"," {pair} {rest}' + ("" if is_required else f" | {rest}"))
        return self._rule(f'"{{" {first} "}}"')

    def _map(self, schema: Schema) -> str:
        """An object with any names."""
        key = self._name().upper()
        self.lines.append(f"{key}: /[a-zA-Z_][a-zA-Z0-9_]{{0,63}}/")
        pair = self._rule(f'{key} ":" {self.value(schema)}')
        return self._rule(f'"{{" ({pair} ("," {pair})*)? "}}"')

    def _any(self) -> str:
        if self._anything is None:
            self._anything = name = self._name()
            ways = [self._of_type(type_, {}) for type_ in _TYPES if type_ != "integer"]
            self.lines.append(f"{name}: {' | '.join(ways)}")
        return self._anything

    def _ref(self, ref: object) -> str:
        if not isinstance(ref, str) or not ref.startswith("#"):
            raise GrammarError("$ref leads nowhere")
        if ref not in self._by_ref:
            self._by_ref[ref] = name = self._name()
            self.lines.append(f"{name}: {self.value(_target(self._root, ref))}")
        return self._by_ref[ref]

    def _literal(self, value: Any) -> str:
        match value:
            case str():
                return self._rule(self._quoted(value))
            case dict():
                pairs = [f'{self._key(key)} ":" {self._literal(value[key])}' for key in sorted(value, key=str.lower)]
                return self._rule(' "," '.join(pairs).join(('"{" ', ' "}"')))
            case list():
                return self._rule(' "," '.join(map(self._literal, value)).join(('"[" ', ' "]"')))
            case _:
                return self._rule(_text(json.dumps(value)))

    def _key(self, key: str) -> str:
        return _text(key) if _BARE_KEY.fullmatch(key) else self._quoted(key)

    def _quoted(self, text: str) -> str:
        if QUOTE in text:
            raise GrammarError("a text holds Gemma's own quotes")
        return f"{self._quote} {_text(text)} {self._quote}"

    def _either(self, names: Sequence[str]) -> str:
        if not names:
            raise GrammarError("nothing fits it")
        return names[0] if len(names) == 1 else self._rule(" | ".join(names))

    @staticmethod
    def _restricts(schema: Mapping[str, Any]) -> bool:
        return any(key in schema for key in ("properties", "items", "required", "pattern", *_NUMBER_KEYS))

    def _rule(self, body: str) -> str:
        name = self._name()
        self.lines.append(f"{name}: {body}")
        return name

    def _name(self) -> str:
        if len(self.lines) > _MAX_RULES:
            raise GrammarError("it is too complex")
        self._n_names += 1
        return f"{self._prefix}_{self._n_names}"


def _check(schema: Mapping[str, Any], *, also: Sequence[str] = ()) -> None:
    """Raise `GrammarError` for keywords that cannot be held to, `also` for those that cannot here."""
    for name in (*_UNSUPPORTED, *also):
        if name in schema:
            raise GrammarError(f"it uses keywords that are not supported: {name}")


def _target(root: Mapping[str, Any], ref: str) -> Schema:
    """The schema that a JSON pointer into the root leads to."""
    found: Any = root
    for part in ref.removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping | bool):
        raise GrammarError("$ref leads nowhere")
    return found


def _whole(pattern: str, char: str) -> str:
    """A pattern that is found anywhere in a text, as one of the whole text."""
    body = pattern.removeprefix("^")
    before = "" if pattern.startswith("^") else f"{char}*"
    ends = body.endswith("$") and not body.endswith("\\$")
    return f"{before}(?:{regex_to_lark(body[:-1] if ends else body, 'd')}){'' if ends else f'{char}*'}"


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise GrammarError("a keyword has a value of the wrong type")
    return value
