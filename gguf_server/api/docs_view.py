"""An OpenAPI document in the order and the words in which a person reads it: headings, operations, shapes, fields."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from backends.schema_types import LARGEST_INT, SMALLEST_INT
from gguf_server.api.openapi_parts import EVENT_STREAM, SCHEMAS

Json = dict[str, Any]
Piece = tuple[str, str | None]
"""Text, and the shape that it names where it names one."""

_BOUNDS: Final = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
}


@dataclass(frozen=True, slots=True)
class FieldView:
    name: str
    kind: list[Piece]
    is_required: bool
    default: str | None
    description: str


@dataclass(frozen=True, slots=True)
class ShapeView:
    name: str
    description: str
    fields: list[FieldView]


@dataclass(frozen=True, slots=True)
class AnswerView:
    """`content` says of each media type what it holds."""

    status: str
    description: str
    content: list[tuple[str, list[Piece]]]
    headers: list[str]


@dataclass(frozen=True, slots=True)
class ExampleView:
    title: str
    command: str


@dataclass(frozen=True, slots=True)
class OperationView:
    anchor: str
    method: str
    path: str
    summary: str
    description: str
    needs_key: bool
    parameters: list[FieldView]
    body: list[Piece]
    examples: list[ExampleView]
    answers: list[AnswerView]


@dataclass(frozen=True, slots=True)
class GroupView:
    anchor: str
    name: str
    description: str
    operations: list[OperationView]


@dataclass(frozen=True, slots=True)
class DocumentView:
    title: str
    version: str
    description: str
    groups: list[GroupView]
    shapes: list[ShapeView]
    headers: list[tuple[str, str]]


def view(document: Json) -> DocumentView:
    components = document["components"]
    operations = list(_operations(document))
    groups = [
        GroupView(
            f"group-{number}", tag["name"], tag["description"], [op for of, op in operations if of == tag["name"]]
        )
        for number, tag in enumerate(document["tags"], start=1)
    ]
    info = document["info"]
    return DocumentView(
        title=info["title"],
        version=info["version"],
        description=info["description"],
        groups=groups,
        shapes=[_shape(name, schema) for name, schema in sorted(components["schemas"].items())],
        headers=[(name, header["description"]) for name, header in components["headers"].items()],
    )


def _operations(document: Json) -> Iterator[tuple[str, OperationView]]:
    responses = document["components"]["responses"]
    for path, methods in document["paths"].items():
        for method, said in methods.items():
            body = _json_body(said)
            yield (
                said["tags"][0],
                OperationView(
                    anchor=said["operationId"],
                    method=method.upper(),
                    path=path,
                    summary=said["summary"],
                    description=said.get("description", ""),
                    needs_key=bool(said["security"]),
                    parameters=[_parameter(of) for of in said["parameters"] if "$ref" not in of],
                    body=pieces(body["schema"]) if body else [],
                    examples=list(_examples(method.upper(), path, said)),
                    answers=[
                        _answer(status, responses[of["$ref"].rpartition("/")[2]] if "$ref" in of else of)
                        for status, of in said["responses"].items()
                    ],
                ),
            )


def _json_body(operation: Json) -> Json:
    content: Json = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    return content


def _parameter(of: Json) -> FieldView:
    return FieldView(of["name"], pieces(of["schema"]), of["required"], None, of["description"])


def _answer(status: str, of: Json) -> AnswerView:
    content = [
        (kind, pieces(_of_event(holds["schema"]) if kind == EVENT_STREAM else holds["schema"]))
        for kind, holds in of.get("content", {}).items()
    ]
    return AnswerView(status, of["description"], content, list(of.get("headers", ())))


def _of_event(schema: Json) -> Json:
    """What an event's data is, besides the mark of the end."""
    found: Json = schema["properties"]["data"]["anyOf"][0]["contentSchema"]
    return found


def _examples(method: str, path: str, operation: Json) -> Iterator[ExampleView]:
    """As commands of a shell in which URL and KEY are set."""
    head = [f'curl "$URL{path}"'] if method == "GET" else [f'curl -X {method} "$URL{path}"']
    if operation["security"]:
        head.append('-H "Authorization: Bearer $KEY"')
    bodies = _json_body(operation).get("examples", {})
    if not bodies:
        yield ExampleView("", " ".join(head))
    for title, example in bodies.items():
        text = shlex.quote(json.dumps(example["value"], ensure_ascii=False))
        command = " \\\n  ".join([" ".join(head), "-H 'Content-Type: application/json'", f"-d {text}"])
        yield ExampleView(title, command)


def _shape(name: str, schema: Json) -> ShapeView:
    required = schema.get("required", ())
    fields = [_field(key, of, key in required) for key, of in schema.get("properties", {}).items()]
    return ShapeView(name, schema.get("description", ""), fields)


def _field(name: str, schema: Json, is_required: bool) -> FieldView:
    default = schema.get("default")
    shown = None if default is None else json.dumps(default, ensure_ascii=False)
    return FieldView(name, pieces(schema), is_required, shown, schema.get("description", ""))


def pieces(schema: Json) -> list[Piece]:
    """What a schema allows, in words. That null may stand for "not said" is left out."""
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix(SCHEMAS)
        return [(name, name)]
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return [(" or ".join(json.dumps(value, ensure_ascii=False) for value in values), None)]
    if branches := schema.get("anyOf") or schema.get("oneOf"):
        said: list[Piece] = []
        for branch in branches:
            if branch.get("type") != "null":
                said += [(" or ", None), *pieces(branch)] if said else pieces(branch)
        return said
    return _of_type(schema)


def _of_type(schema: Json) -> list[Piece]:
    bounds = [
        words.format(schema[key])
        for key, words in _BOUNDS.items()
        if key in schema and schema[key] not in (SMALLEST_INT, LARGEST_INT)
    ]
    limits = f" ({', '.join(bounds)})" if bounds else ""
    kind = schema.get("type", "anything")
    if kind == "array":
        return [("list of ", None), *pieces(schema.get("items", {})), (limits, None)]
    if kind == "object" and isinstance(values := schema.get("additionalProperties"), dict) and values:
        return [("object of ", None), *pieces(values), (limits, None)]
    return [(f"{kind}{limits}", None)]
