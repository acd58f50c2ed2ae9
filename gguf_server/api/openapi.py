"""The OpenAPI 3.1 description of a listener, built from its router, what is held beside each route, and the models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, Final

from aiohttp import hdrs, web
from pydantic import BaseModel

from gguf_server.api import openapi_parts as parts
from gguf_server.api.answers import ErrorAnswer
from gguf_server.api.operations import Answer, Operation, Tag, operation_of
from gguf_server.errors import (
    BadRequest,
    BodyTooLarge,
    GatewayError,
    PermissionDenied,
    Unauthorized,
    UnsupportedEncoding,
    WrongShape,
)

Json = dict[str, Any]

_NO_IDENTIFIER: Final = re.compile(r"[^A-Za-z0-9]+")


def describe(app: web.Application) -> Json:
    """The document of everything that `app` answers."""
    paths: dict[str, Json] = {}
    tags: dict[str, Tag] = {}
    models: list[type[BaseModel]] = [ErrorAnswer]
    ids: set[str] = set()
    errors: Json = {}
    for method, path, operation in _operations(app):
        tags.setdefault(operation.tag.name, operation.tag)
        models += _models(operation)
        paths.setdefault(path, {})[method.lower()] = {
            "operationId": _unique_id(operation, ids),
            **_describe(operation, path, errors),
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "gguf-server", "version": version("gguf-server"), "description": parts.ABOUT},
        "servers": [{"url": "/"}],
        "tags": [{"name": tag.name, "description": tag.description} for tag in tags.values()],
        "paths": paths,
        "components": {
            "schemas": parts.schemas(models),
            "responses": dict(sorted(errors.items())),
            "headers": parts.HEADERS,
            "parameters": {"x-request-id": parts.REQUEST_ID},
            "securitySchemes": parts.SECURITY_SCHEMES,
        },
    }


def _operations(app: web.Application) -> Iterator[tuple[str, str, Operation]]:
    """Method, path and operation of each route. That GET also answers HEAD goes without saying."""
    for route in app.router.routes():
        operation = operation_of(route)
        if route.resource is not None and isinstance(operation, Operation) and route.method != hdrs.METH_HEAD:
            yield route.method, route.resource.canonical, operation


def _models(operation: Operation) -> Iterator[type[BaseModel]]:
    if operation.body is not None:
        yield operation.body
    for answer in operation.answers.values():
        yield from (model for model in (answer.model, answer.events) if model is not None)


def _unique_id(operation: Operation, taken: set[str]) -> str:
    """Under a mount that is no root, with its path behind."""
    mount = _NO_IDENTIFIER.sub("_", operation.mount).rstrip("_")
    wanted = found = f"{operation.id}{mount}"
    number = 1
    while found in taken:
        number += 1
        found = f"{wanted}_{number}"
    taken.add(found)
    return found


def _describe(operation: Operation, path: str, shared_errors: Json) -> Json:
    said: Json = {
        "tags": [operation.tag.name],
        "summary": operation.summary,
        "parameters": [*_path_parameters(operation, path), {"$ref": "#/components/parameters/x-request-id"}],
        "responses": _responses(operation, shared_errors),
        "security": [{"bearer": []}] if operation.needs_key else [],
    }
    if operation.description:
        said["description"] = operation.description
    if operation.body is not None:
        content: Json = {"schema": parts.reference(operation.body)}
        if operation.examples:
            content["examples"] = {name: {"value": value} for name, value in operation.examples.items()}
        said["requestBody"] = {"required": True, "content": {"application/json": content}}
    return said


def _path_parameters(operation: Operation, path: str) -> list[Json]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": operation.parameters.get(name, ""),
            "schema": {"type": "string", "minLength": 1},
        }
        for name in re.findall(r"{(\w+)}", path)
    ]


def _responses(operation: Operation, shared_errors: Json) -> dict[str, Json]:
    """What is described goes before an error of the same status."""
    described = {status: _response(answer) for status, answer in operation.answers.items()}
    errors = parts.error_answers([*_obvious_errors(operation), *operation.errors], shared_errors)
    return {str(status): said for status, said in sorted({**errors, **described}.items())}


def _obvious_errors(operation: Operation) -> Iterator[type[GatewayError]]:
    if operation.body is not None:
        yield from (BadRequest, BodyTooLarge, UnsupportedEncoding, WrongShape)
    if operation.needs_key:
        yield from (Unauthorized, PermissionDenied)
    yield GatewayError


def _response(answer: Answer) -> Json:
    said: Json = {"description": answer.description, "headers": parts.headers(answer.headers)}
    content: Json = {}
    if answer.model is not None:
        content["application/json"] = {"schema": parts.reference(answer.model)}
        if answer.example is not None:
            content["application/json"]["example"] = answer.example
    if answer.events is not None:
        content[parts.EVENT_STREAM] = {"schema": parts.event(answer.events)}
    if answer.media_type is not None:
        content[answer.media_type] = {"schema": {"type": "string"}}
    if content:
        said["content"] = content
    return said
