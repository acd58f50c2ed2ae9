"""The pieces that every description of a listener has: what is said of it, its headers, its errors, its schemas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from backends.schema_types import LARGEST_INT, SMALLEST_INT
from gguf_server.api.answers import ErrorAnswer
from gguf_server.errors import (
    ExpectationFailed,
    GatewayError,
    HeadersTooLarge,
    RequestTooSlow,
    ServerFull,
    TooManyConnections,
    WrongHost,
)
from gguf_server.limits.headers import RATE_LIMIT_HEADERS

Json = dict[str, Any]

SCHEMAS: Final = "#/components/schemas/"
EVENT_STREAM: Final = "text/event-stream"

_ANYWHERE: Final = (RequestTooSlow, ExpectationFailed, WrongHost, TooManyConnections, HeadersTooLarge, ServerFull)
_ABOUT: Final = """\
An OpenAI-compatible gateway over engines that take over from each other.

Keys are sent as `Authorization: Bearer TOKEN`. Text is UTF-8. Errors have one shape everywhere; after the first byte \
of a stream an error is its last event, and the stream still ends with `data: [DONE]`. Send `x-request-id` (letters, \
digits and `._:-`, at most 128) to find a request again in the logs of the gateway and of its engines; each answer \
carries it, or the one that was made up.

Whatever the path, a connection or a request that the server does not want is answered {anywhere}.\
"""

ABOUT: Final = _ABOUT.format(anywhere=", ".join(f"{kind.status} `{kind.code}`" for kind in _ANYWHERE))

HEADERS: Final[dict[str, Json]] = {
    "x-request-id": {
        "description": "The client's own where it sent a sound one, else a new one. The logs have it.",
        "schema": {"type": "string"},
    },
    "x-engine": {"description": "The engine that answered, or that began to.", "schema": {"type": "string"}},
    "x-engine-failovers": {
        "description": "How often the request had moved to another engine by then.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "x-context-truncated": {
        "description": "Messages that were left out to make the rest fit; absent where none was.",
        "schema": {"type": "integer", "minimum": 1},
    },
    **{
        name: {"description": meaning, "schema": {"type": "string" if "-reset-" in name else "integer"}}
        for name, meaning in RATE_LIMIT_HEADERS.items()
    },
    "x-should-retry": {"description": "`false`: the same would happen again.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer", "minimum": 0}},
    "WWW-Authenticate": {"description": "How to send a key.", "schema": {"type": "string"}},
    "Accept-Encoding": {"description": "The encodings that a body may have.", "schema": {"type": "string"}},
    "Allow": {"description": "The methods that the path takes.", "schema": {"type": "string"}},
}

REQUEST_ID: Final[Json] = {
    "name": "x-request-id",
    "in": "header",
    "required": False,
    "description": "Names the request in all logs. One that is not sound is replaced.",
    "schema": {"type": "string"},
}

SECURITY_SCHEMES: Final[Json] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key as `gguf-server keys create NAME` prints it.",
    }
}


class _Plain(GenerateJsonSchema):
    """Without the titles that pydantic makes of field names, and with the integers that a JSON body here can hold."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        said = super().int_schema(schema)
        if "exclusiveMinimum" not in said:
            said.setdefault("minimum", SMALLEST_INT)
        if "exclusiveMaximum" not in said:
            said.setdefault("maximum", LARGEST_INT)
        return said


def schemas(models: Iterable[type[BaseModel]]) -> Json:
    """`components.schemas` of these models and of all that they are made of."""
    asked = [(model, "validation") for model in dict.fromkeys(models)]
    _, found = models_json_schema(
        asked,  # type: ignore[arg-type]  # a literal in a list is a str
        ref_template=SCHEMAS + "{model}",
        schema_generator=_Plain,
    )
    definitions: Json = found.get("$defs", {})
    for schema in definitions.values():
        schema.pop("title", None)
    return definitions


def reference(model: type[BaseModel]) -> Json:
    return {"$ref": SCHEMAS + model.__name__}


def event(model: type[BaseModel]) -> Json:
    """One server-sent event, as it is understood where a schema is of `text/event-stream`."""
    holds = {"type": "string", "contentMediaType": "application/json", "contentSchema": reference(model)}
    return {
        "type": "object",
        "description": "Each event; its `data` is JSON, and `[DONE]` at the end.",
        "required": ["data"],
        "properties": {"data": {"anyOf": [holds, {"const": "[DONE]"}]}},
    }


def headers(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", *names)}


def error_answers(kinds: Iterable[type[GatewayError]], shared: Json) -> dict[int, Json]:
    """By status; several errors of one status are told apart by their codes. `shared` holds what is referred to."""
    by_status: dict[int, list[GatewayError]] = {}
    for kind in dict.fromkeys(kinds):
        by_status.setdefault(kind.status, []).append(kind("What is wrong, in a sentence."))
    answers: dict[int, Json] = {}
    for status, samples in by_status.items():
        name = "-".join([str(status), *dict.fromkeys(error.code for error in samples)])
        shared.setdefault(name, _error_answer(samples))
        answers[status] = {"$ref": f"#/components/responses/{name}"}
    return answers


def _error_answer(samples: Sequence[GatewayError]) -> Json:
    codes = " or ".join(dict.fromkeys(f"`{error.code}`" for error in samples))
    names = dict.fromkeys(name for error in samples for name in error.headers)
    return {
        "description": f"{codes}.",
        "headers": headers(names),
        "content": {
            "application/json": {
                "schema": reference(ErrorAnswer),
                "examples": {error.code: {"value": error.body()} for error in samples},
            }
        },
    }
