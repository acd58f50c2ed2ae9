"""Which settings there are, and what is wrong with a configuration in the words of the person who wrote it.

Both come from the JSON schema of `Settings`: whatever `gguf_server.settings` gains is known here without a change.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from pydantic import ValidationError

from gguf_server.settings import Settings

Location = tuple[str | int, ...]
Schema = dict[str, Any]

_WANTS_A_TABLE = {"model_type", "model_attributes_type", "dict_type"}


def describe(error: ValidationError) -> list[str]:
    """One line for each thing that is wrong."""
    errors = error.errors(include_url=False, include_input=False)
    parents = {detail["loc"][:depth] for detail in errors for depth in range(1, len(detail["loc"]))}
    lines = []
    for detail in errors:
        location, kind, message = detail["loc"], detail["type"], detail["msg"]
        if kind == "too_short" and location in parents:
            continue  # follows from the items that were refused
        if kind == "extra_forbidden":
            names = _schema_at(location[:-1]).get("properties", {})
            message = f"unknown key{did_you_mean(str(location[-1]), names)}"
        elif kind == "union_tag_invalid":
            tag, kinds = detail["ctx"]["tag"], _schema_at(location)["discriminator"]["mapping"]
            location, message = (*location, "kind"), f"unknown kind {tag!r}{did_you_mean(tag, kinds)}"
        elif kind == "union_tag_not_found":
            location, message = (*location, "kind"), "Field required"
        elif kind in _WANTS_A_TABLE:
            message = "Input should be a table"
        elif kind == "value_error":
            message = str(detail["ctx"]["error"])
        lines.append(f"{dotted(location)}: {message}" if location else message)
    return lines


def dotted(location: Location) -> str:
    """A location as TOML would write it, without the step that chose an engine's kind."""
    written = ""
    schema = _schema()
    for part in location:
        is_kind = part in schema.get("discriminator", {}).get("mapping", {})
        schema = _child_schema(schema, part)
        if isinstance(part, int):
            written += f"[{part}]"
        elif not is_kind:
            key = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else json.dumps(part, ensure_ascii=False)
            written += f".{key}" if written else key
    return written


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {prefix}{nearest[0]}?" if nearest else ""


def every_setting(services: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Path of each setting there is when these are the services, and whether it is a list."""
    return _leaves(_schema(), (), services)


def _leaves(schema: Schema, path: tuple[str, ...], services: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], bool]]:
    for name, child in schema["properties"].items():
        resolved = _resolve(child)
        if "properties" in resolved:
            yield from _leaves(resolved, (*path, name), services)
        elif "additionalProperties" in resolved:
            for service in services:
                yield from _leaves(_resolve(resolved["additionalProperties"]), (*path, name, service), services)
        else:
            yield (*path, name), resolved.get("type") == "array"


@cache
def _schema() -> Schema:
    return Settings.model_json_schema()


def _resolve(schema: Schema) -> Schema:
    reference = schema.get("$ref")
    resolved: Schema = _schema()["$defs"][reference.rsplit("/", 1)[1]] if reference else schema
    return resolved


def _child_schema(schema: Schema, part: str | int) -> Schema:
    """JSON schema one step further along a pydantic error location; {} where the schema knows no such step."""
    if isinstance(part, int):
        return _resolve(schema.get("items", {}))
    if part in schema.get("properties", {}):
        return _resolve(schema["properties"][part])
    if part in schema.get("discriminator", {}).get("mapping", {}):
        return _resolve({"$ref": schema["discriminator"]["mapping"][part]})
    return _resolve(schema.get("additionalProperties") or {})


def _schema_at(location: Location) -> Schema:
    schema = _schema()
    for part in location:
        schema = _child_schema(schema, part)
    return schema
