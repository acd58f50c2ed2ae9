"""The application behind a listener: which paths there are, what each needs, who answers.

Middleware, outermost first: request id and log line, errors in one shape. A key is asked for by the routes that need
one, so that an unknown path is a 404 whoever asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiohttp import web

from gguf_server.api.metrics import MetricsApi
from gguf_server.api.openai import OpenAIApi
from gguf_server.api.ops import OpsApi, health_of
from gguf_server.api.ui import UiApi
from gguf_server.auth import authenticate
from gguf_server.gateway import Gateway
from gguf_server.keys import KeyRing
from gguf_server.middleware import (
    IDENTITY,
    Handler,
    add_request_id,
    identify_and_log,
    json_response,
    render_errors,
)
from gguf_server.request_record import OBSERVERS, RECORD
from gguf_server.service import Service
from gguf_server.settings import UI_PATH


def make_app(gateway: Gateway, mounts: Mapping[str, Service]) -> web.Application:
    """`mounts`: which service answers under which path; "" is the root, which lists the others where nobody has it."""
    keyring = gateway.keyring
    max_body_bytes = gateway.settings.server.max_body_bytes
    app = web.Application(middlewares=[identify_and_log, render_errors], client_max_size=max_body_bytes)
    app[OBSERVERS] = gateway.observers
    app.on_response_prepare.append(add_request_id)
    for path, service in mounts.items():
        app.add_routes(service_routes(path, service, keyring))
    app.add_routes([web.get("/metrics", _with_key(MetricsApi(_distinct(mounts)).metrics, keyring))])
    if "" not in mounts:
        app.add_routes(directory_routes(mounts, keyring))
    if gateway.settings.ui.enabled:
        page = UiApi(mounts, max_body_bytes=max_body_bytes)
        app.add_routes([web.get(f"{UI_PATH}/services", _with_key(page.services, keyring)), *page.routes()])
    return app


def service_routes(path: str, service: Service, keyring: KeyRing) -> list[web.RouteDef]:
    """Everything that one service answers, under `path`."""
    ops = OpsApi(service)
    openai = OpenAIApi(service)

    def keyed(handler: Handler) -> Handler:
        return _with_key(handler, keyring, service.name)

    routes = [
        web.get(f"{path}/health", ops.health),
        web.get(f"{path}/status", keyed(ops.status)),
        web.post(f"{path}/chat", keyed(openai.chat)),
        web.post(f"{path}/v1/chat/completions", keyed(openai.chat_completions)),
        web.post(f"{path}/v1/completions", keyed(openai.completions)),
        web.get(f"{path}/v1/models", keyed(openai.list_models)),
        web.get(f"{path}/v1/models/{{id:.+}}", keyed(openai.show_model)),
        web.get(f"{path}/", keyed(ops.index)),
    ]
    if path:
        routes.append(web.get(path, keyed(ops.index)))
    if service.settings.task == "embed":
        routes.append(web.post(f"{path}/v1/embeddings", keyed(openai.embeddings)))
    return routes


def directory_routes(mounts: Mapping[str, Service], keyring: KeyRing) -> list[web.RouteDef]:
    """The root of a listener whose services all have paths of their own."""

    async def index(_request: web.Request) -> web.Response:
        return json_response({"services": {path: service.settings.title for path, service in mounts.items()}})

    async def health(_request: web.Request) -> web.Response:
        """200 while at least one service can answer."""
        found = {service.name: health_of(service) for service in _distinct(mounts)}
        healthy = any(status == 200 for _, status in found.values())
        body = {"status": "healthy" if healthy else "not ready", "services": {n: b for n, (b, _) in found.items()}}
        return json_response(body, status=200 if healthy else 503, headers=None if healthy else {"Retry-After": "2"})

    return [web.get("/", _with_key(index, keyring)), web.get("/health", health)]


def _distinct(mounts: Mapping[str, Service]) -> Sequence[Service]:
    return list({service.name: service for service in mounts.values()}.values())


def _with_key(handler: Handler, keyring: KeyRing, service: str | None = None) -> Handler:
    async def guarded(request: web.Request) -> web.StreamResponse:
        record = request[RECORD]
        record.service = service
        identity = request[IDENTITY] = authenticate(request.headers, keyring)
        record.key_id = identity.id
        return await handler(request)

    return guarded
