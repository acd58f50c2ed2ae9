"""The description of the API: whole, valid, and of this listener."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import hdrs, web
from openapi_spec_validator import OpenAPIV31SpecValidator
from pytest_aiohttp.plugin import AiohttpClient

from gguf_server.api.openapi import describe
from gguf_server.api.operations import Operation, Unlisted, operation_of
from gguf_server.errors import Conflict, GatewayError, MethodNotAllowed, NotFound
from gguf_server.settings import DocsSettings, Settings
from tests.gguf_server.listeners import of_presets, shared_listener

LISTENERS = {"a root": ("demo",), "several": ("qwen3", "gemma4", "qwen2.5"), "all": ("demo", "qwen3", "gemma4")}


@pytest.fixture(params=list(LISTENERS.values()), ids=list(LISTENERS))
def app(request: pytest.FixtureRequest, tmp_path: Path) -> web.Application:
    return shared_listener(of_presets(*request.param), tmp_path)


def embedding() -> Settings:
    demo = of_presets("demo")
    return demo.model_copy(update={"services": {"search": demo.services["demo"].model_copy(update={"task": "embed"})}})


def test_every_route_is_described_or_told_to_be_a_part(app: web.Application) -> None:
    undescribed = [route for route in app.router.routes() if operation_of(route) is None]
    assert not undescribed


def test_every_path_and_method_of_the_listener_is_in_the_document_and_nothing_else(app: web.Application) -> None:
    there = {
        (route.resource.canonical, route.method.lower())
        for route in app.router.routes()
        if route.resource and route.method != hdrs.METH_HEAD and not isinstance(operation_of(route), Unlisted)
    }
    told = {(path, method) for path, methods in describe(app)["paths"].items() for method in methods}
    assert told == there


def test_the_document_is_valid(app: web.Application) -> None:
    assert not list(OpenAPIV31SpecValidator(describe(app)).iter_errors())


def test_operation_ids_are_distinct_and_tags_are_told(app: web.Application) -> None:
    document = describe(app)
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    assert {tag for operation in operations for tag in operation["tags"]} == {tag["name"] for tag in document["tags"]}


def test_what_needs_a_key_is_what_answers_401_without(app: web.Application) -> None:
    for route in app.router.routes():
        operation = operation_of(route)
        if isinstance(operation, Operation) and route.resource is not None and route.method != hdrs.METH_HEAD:
            said = describe(app)["paths"][route.resource.canonical][route.method.lower()]
            assert ("401" in said["responses"]) == bool(said["security"]) == operation.needs_key


def test_embeddings_are_there_where_a_model_makes_them(tmp_path: Path) -> None:
    assert "/v1/embeddings" in describe(shared_listener(embedding(), tmp_path))["paths"]
    assert "/v1/embeddings" not in describe(shared_listener(of_presets("demo"), tmp_path))["paths"]


def test_schemas_say_what_fields_are_and_what_they_may_be(tmp_path: Path) -> None:
    schemas = describe(shared_listener(of_presets("demo"), tmp_path))["components"]["schemas"]
    temperature: dict[str, Any] = schemas["ChatCompletionRequest"]["properties"]["temperature"]
    assert temperature["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 2}
    assert schemas["ErrorAnswer"]["required"] == ["error"]


def test_every_error_is_told_of_somewhere(tmp_path: Path) -> None:
    document = json.dumps(describe(shared_listener(of_presets("demo"), tmp_path)))

    def kinds(of: type[GatewayError]) -> set[type[GatewayError]]:
        return {of, *(kind for below in of.__subclasses__() for kind in kinds(below))}

    ours = {kind for kind in kinds(GatewayError) if not kind.__name__.startswith("_")}
    of_every_path = {NotFound, MethodNotAllowed}
    of_administration = {Conflict}
    assert not [kind for kind in ours - of_every_path - of_administration if f"`{kind.code}`" not in document]


async def test_the_document_needs_no_key(aiohttp_client: AiohttpClient, tmp_path: Path) -> None:
    client = await aiohttp_client(shared_listener(of_presets("demo"), tmp_path))
    answer = await client.get("/openapi.json")
    assert answer.status == 200
    assert (await answer.json())["openapi"] == "3.1.0"


async def test_it_can_be_switched_off(aiohttp_client: AiohttpClient, tmp_path: Path) -> None:
    settings = of_presets("demo").model_copy(update={"docs": DocsSettings(enabled=False)})
    client = await aiohttp_client(shared_listener(settings, tmp_path))
    assert (await client.get("/openapi.json")).status == 404
    assert (await client.get("/docs")).status == 404
