"""What is wrong with a grammar or a schema, said without a word of it.

llguidance's messages quote what they complain of, and do not say where in a schema it stands. Here they are told apart
by their beginnings, and the place is found by asking for parts of the schema, ever smaller ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeGuard

import orjson

MAX_SCHEMA_BYTES: Final = 256 << 10
MAX_SCHEMA_DEPTH: Final = 64
MAX_SCHEMA_NODES: Final = 20_000
MAX_PROPERTIES: Final = 1_000
MAX_PLACE_CHARS: Final = 200
NOTHING_FITS: Final[str] = "nothing fits it"

_MAX_PARTS_ASKED: Final = 200

_NO_TARGET: Final[str] = "$ref leads nowhere"
_UNKNOWN: Final = "it cannot be made into a grammar"
_TOO_COMPLEX: Final = "it is too complex"
_KINDS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(NOTHING_FITS), NOTHING_FITS),
    (re.compile(r"[Uu]nsatisfiable|NoExtension"), NOTHING_FITS),
    (re.compile(r"Unimplemented keys"), "it uses keywords that are not supported"),
    (re.compile(r"Invalid type|type must be"), "type is none of JSON's"),
    (re.compile(r"Unknown format"), "format is none that is known here"),
    (re.compile(r"not present in a registry|[Pp]ointer|ref.*not found|URI|Unresolvable"), _NO_TARGET),
    (re.compile(r"circular ref"), "$ref goes round in a circle"),
    (re.compile(r"look-?around|look-ahead"), "lookarounds are not supported in regular expressions"),
    (re.compile(r"backreferences"), "backreferences are not supported in regular expressions"),
    (re.compile(r"oneOf"), "oneOf: the alternatives have to exclude each other"),
    (re.compile(r"too large|too many|[Ff]uel|Too many|nested|limit|too big|too deep"), _TOO_COMPLEX),
    (re.compile(r"[Ii]nvalid regex|regex parse"), "a regular expression cannot be read"),
    (re.compile(r"must be|Expected|expected"), "a keyword has a value of the wrong type"),
)
_GRAMMAR_KINDS: Final = (
    (re.compile(r"unknown name|not found"), "a rule is not defined"),
    *(kind for kind in _KINDS if kind[1] != _NO_TARGET),
)
_REPETITIONS: Final = re.compile(r"\{\s*(?:\d*\s*,\s*)?0*[1-9]\d{4}")
_LINE_AND_COLUMN: Final = re.compile(r"(?:^|\s)(?:at )?(\d+)\((\d+)\):")

# Keywords of JSON Schema whose values are schemas: one, a list of them, or several by name.
_ONE: Final = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else")
_LIST: Final = ("prefixItems", "items", "allOf", "anyOf", "oneOf")
_BY_NAME: Final = ("properties", "patternProperties", "dependentSchemas")
_SHARED: Final = ("$defs", "definitions")
# What llguidance knows nothing of and what a schema may mean by it: its annotations are no part of this.
_UNSUPPORTED: Final = (
    "not",
    "if",
    "uniqueItems",
    "contains",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedProperties",
    "unevaluatedItems",
    "$dynamicRef",
    "$recursiveRef",
)


class GrammarError(Exception):
    """It is no grammar, or one that is not taken; `place` is a JSON pointer into a schema, "" where it is all of it."""

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.place = place[:MAX_PLACE_CHARS]


def check_schema(schema: object) -> None:
    """Raise `GrammarError` for a schema that is none, or larger than it may be."""
    if not isinstance(schema, dict):
        raise GrammarError("it is not a JSON object")
    try:
        n_bytes = len(orjson.dumps(schema))
    except (orjson.JSONEncodeError, RecursionError):
        raise GrammarError("it is not JSON") from None
    if n_bytes > MAX_SCHEMA_BYTES:
        raise GrammarError(f"it is longer than {MAX_SCHEMA_BYTES >> 10} KiB")
    n_nodes = 0
    waiting: list[tuple[Any, str, int]] = [(schema, "", 1)]
    while waiting:
        node, place, depth = waiting.pop()
        n_nodes += 1
        if n_nodes > MAX_SCHEMA_NODES:
            raise GrammarError(f"it has more than {MAX_SCHEMA_NODES} values")
        if depth > MAX_SCHEMA_DEPTH:
            raise GrammarError(f"it is nested more than {MAX_SCHEMA_DEPTH} deep", place)
        if isinstance(node, dict):
            if len(node) > MAX_PROPERTIES:
                raise GrammarError(f"there are more than {MAX_PROPERTIES} names in one object", place)
            waiting += ((child, _below(place, name), depth + 1) for name, child in node.items())
            if isinstance(pattern := node.get("pattern"), str):
                check_repetitions(pattern, place)
        elif isinstance(node, list):
            waiting += ((child, _below(place, i), depth + 1) for i, child in enumerate(node))


def check_repetitions(text: str, place: str = "") -> None:
    """Raise `GrammarError` for an expression that repeats a thing very often: its states are made one by one."""
    if _REPETITIONS.search(text):
        raise GrammarError("it repeats something ten thousand times or more", place)


def explain_schema(schema: Any, why: str, error_of: Callable[[dict[str, Any]], str]) -> GrammarError:
    """The smallest part of a schema that fails as the whole does, for the reason `why`, and what that means.

    `error_of`: why a schema fails, "" where it does not.
    """
    kind = _kind_of(why, _KINDS)
    shared = {name: schema[name] for name in (*_SHARED, "$schema") if name in schema}
    part, place, n_asked = schema, "", 0
    while True:
        for where, child in _parts(schema, part, place):
            n_asked += 1
            if n_asked > _MAX_PARTS_ASKED:
                return _located(kind, part, place)
            if _kind_of(error_of({**shared, **child}), _KINDS) == kind:
                part, place = child, where
                break
        else:
            return _located(kind, part, place)


def explain_regex(why: str) -> GrammarError:
    return GrammarError(_kind_of(why, _GRAMMAR_KINDS))


def explain_lark(why: str) -> GrammarError:
    """With the line and column, where there are some."""
    at = _LINE_AND_COLUMN.search(why)
    where = f"line {at[1]}, column {at[2]}: " if at else ""
    return GrammarError(where + _kind_of(why, _GRAMMAR_KINDS))


def converted(convert: Callable[[str], str], text: str) -> str:
    """`convert(text)`, whatever it raises being what is wrong with the text."""
    try:
        return convert(text)
    except RecursionError:
        raise GrammarError(_TOO_COMPLEX) from None
    except Exception as error:  # noqa: BLE001 - the converter raises the plain class for some of its errors
        offset = getattr(getattr(error, "pos", None), "pos", None)
        line = text.count("\n", 0, offset) + 1 if offset is not None else None
        raise GrammarError(f"line {line}: it cannot be read" if line else "it cannot be read") from None


def _kind_of(why: str, kinds: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    return next((kind for pattern, kind in kinds if pattern.search(why)), _UNKNOWN) if why else ""


def _located(kind: str, part: dict[str, Any], place: str) -> GrammarError:
    unsupported = [name for name in _UNSUPPORTED if name in part] if "keywords" in kind else []
    return GrammarError(f"{kind}: {', '.join(unsupported)}" if unsupported else kind, place)


def _parts(root: dict[str, Any], schema: dict[str, Any], place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schemas right inside a schema that stands at `place`, or that it refers to, with where they stand."""
    ref = schema.get("$ref")
    for name in _SHARED:
        children = root.get(name)
        if isinstance(ref, str) and isinstance(children, dict):
            key = ref.removeprefix(f"#/{name}/").replace("~1", "/").replace("~0", "~")
            if _is_schema(child := children.get(key)):
                yield _below(_below("", name), key), child
    for name in _BY_NAME:
        if isinstance(children := schema.get(name), dict):
            yield from (
                (_below(_below(place, name), key), child) for key, child in children.items() if _is_schema(child)
            )
    for name in _LIST:
        if isinstance(children := schema.get(name), list):
            yield from (
                (_below(_below(place, name), i), child) for i, child in enumerate(children) if _is_schema(child)
            )
    for name in _ONE:
        if _is_schema(child := schema.get(name)):
            yield _below(place, name), child


def _is_schema(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _below(place: str, name: str | int) -> str:
    return f"{place}/{str(name).replace('~', '~0').replace('/', '~1')}"
