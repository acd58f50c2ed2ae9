"""The application behind a listener: which paths there are, what each needs, who answers.

Middleware, outermost first: request id and log line, errors in one shape; around and inside of these, what faces the
network (`gguf_server.listening.layers`). A key is asked for by the routes that need one, so that an unknown path is a
404 whoever asks. What services there are may change while it listens: `remount` gives it other routes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from aiohttp import web

from gguf_server.api import server_operations
from gguf_server.api.docs import docs_routes
from gguf_server.api.openai import OpenAIApi
from gguf_server.api.operations import described, unlisted
from gguf_server.api.ops import OpsApi, health_of
from gguf_server.api.service_operations import ServiceOperations
from gguf_server.api.ui import UiApi
from gguf_server.audit.prompt_hash import PROMPT_HASHER
from gguf_server.auth import authenticate, check_role
from gguf_server.conditions import CONDITIONS, GUARDS
from gguf_server.gateway import Gateway
from gguf_server.keys import KeyRing, Role
from gguf_server.limits import requests as limits
from gguf_server.listening.layers import protect
from gguf_server.live_routes import LiveRoutes
from gguf_server.metrics.listener import metrics_handler
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
from gguf_server.settings.ui import UI_PATH

ROUTES: Final = web.AppKey("routes", LiveRoutes)


def make_app(gateway: Gateway, mounts: Mapping[str, Service]) -> web.Application:
    """`mounts`: which service answers under which path; "" is the root, which lists the others where nobody has it."""
    max_body_bytes = gateway.settings.server.max_body_bytes
    traced = [gateway.tracing.middleware] if gateway.tracing is not None else []
    app = web.Application(middlewares=[identify_and_log, *traced, render_errors], client_max_size=max_body_bytes)
    app[OBSERVERS] = gateway.observers
    app[GUARDS] = gateway.guards
    app[CONDITIONS] = gateway.conditions
    if gateway.prompt_hasher is not None:
        app[PROMPT_HASHER] = gateway.prompt_hasher
    app[limits.LIMITER] = gateway.limiter
    app[ROUTES] = LiveRoutes()
    app.on_response_prepare.extend((add_request_id, limits.add_rate_limit_headers))
    protect(app, gateway)
    app.router.register_resource(app[ROUTES])
    remount(app, gateway, mounts)
    return app


def remount(
    app: web.Application, gateway: Gateway, mounts: Mapping[str, Service], more: Sequence[web.RouteDef] = ()
) -> None:
    """Let new requests find these services and `more`, and be as large as the gateway's settings now say."""
    app._client_max_size = gateway.settings.server.max_body_bytes  # aiohttp reads it for each request
    app[ROUTES].replace([*more, *routes_of(gateway, mounts)])


def routes_of(gateway: Gateway, mounts: Mapping[str, Service]) -> list[web.RouteDef]:
    """All that depends on which services there are."""
    keyring = gateway.keyring
    routes = [route for path, service in mounts.items() for route in service_routes(path, service, keyring)]
    metrics = metrics_handler(gateway, lambda: _distinct(mounts), with_others="" not in mounts)
    guarded = metrics if gateway.metrics_key else _with_key(metrics, keyring)
    routes.append(described(web.get("/metrics", guarded), server_operations.METRICS))
    if gateway.settings.docs.enabled:
        routes += docs_routes()
    if gateway.settings.ui.enabled:
        page = UiApi(mounts, max_body_bytes=gateway.settings.server.max_body_bytes)
        routes += [unlisted(web.get(f"{UI_PATH}/services", _with_key(page.services, keyring))), *page.routes()]
    return routes if "" in mounts else [*routes, *directory_routes(mounts, keyring)]


def service_routes(path: str, service: Service, keyring: KeyRing) -> list[web.RouteDef]:
    """Everything that one service answers, under `path`."""
    ops = OpsApi(service)
    openai = OpenAIApi(service)
    does = ServiceOperations(service.settings, path)

    def keyed(handler: Handler) -> Handler:
        return _with_key(handler, keyring, service.name)

    def asking(handler: Handler) -> Handler:
        return _with_key(handler, keyring, service.name, role="user")

    routes = [
        described(web.get(f"{path}/health", ops.health), does.health),
        described(web.get(f"{path}/status", keyed(ops.status)), does.status),
        described(web.post(f"{path}/chat", asking(openai.chat)), does.chat),
        described(web.post(f"{path}/v1/chat/completions", asking(openai.chat_completions)), does.chat_completions),
        described(web.post(f"{path}/v1/completions", asking(openai.completions)), does.completions),
        described(web.get(f"{path}/v1/models", keyed(openai.list_models)), does.list_models),
        described(web.get(f"{path}/v1/models/{{id:.+}}", keyed(openai.show_model)), does.show_model),
        described(web.get(f"{path}/", keyed(ops.index)), does.index),
    ]
    if path:
        routes.append(described(web.get(path, keyed(ops.index)), does.index))
    if service.settings.task == "embed":
        routes.append(described(web.post(f"{path}/v1/embeddings", asking(openai.embeddings)), does.embeddings))
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

    return [
        described(web.get("/", _with_key(index, keyring)), server_operations.DIRECTORY),
        described(web.get("/health", health), server_operations.DIRECTORY_HEALTH),
    ]


def _distinct(mounts: Mapping[str, Service]) -> Sequence[Service]:
    return list({service.name: service for service in mounts.values()}.values())


def _with_key(handler: Handler, keyring: KeyRing, service: str | None = None, *, role: Role | None = None) -> Handler:
    """`role`: of those who may; None is anybody with a key."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        record = request[RECORD]
        record.service = service
        identity = request[IDENTITY] = authenticate(request.headers, keyring)
        record.key_id = identity.id
        if role is not None:
            check_role(identity, role)
        limits.check(request, identity, service)
        for guard in request.app[GUARDS]:
            guard(record)
        return await handler(request)

    return guarded
