"""What an operator asks of a running server. There is nothing here as long as there is no admin key.

Nothing is cut by it: engines are ended when they have answered what they were asked, and what comes meanwhile waits or
goes to another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web

from gguf_server.api import admin_operations as does
from gguf_server.api.operations import Operation, described
from gguf_server.api.schemas import parse
from gguf_server.auth import authenticate, check_role
from gguf_server.errors import Conflict, NotFound
from gguf_server.gateway import Gateway
from gguf_server.link import Link
from gguf_server.middleware import IDENTITY, Handler, json_response
from gguf_server.reload.reloader import Reloader
from gguf_server.reload.roster import Roster
from gguf_server.request_record import RECORD
from gguf_server.service import Service
from gguf_server.settings.base import ADMIN_PATH

log = structlog.get_logger("admin")


class AdminApi:
    """Handlers of the shared listener."""

    def __init__(self, gateway: Gateway, roster: Roster, reloader: Reloader) -> None:
        self._gateway = gateway
        self._roster = roster
        self._reloader = reloader

    def routes(self) -> list[web.RouteDef]:
        of = f"{ADMIN_PATH}/services/{{service}}"
        posts: dict[str, tuple[Handler, Operation]] = {
            f"{ADMIN_PATH}/reload": (self.reload, does.RELOAD),
            f"{ADMIN_PATH}/drain": (self.drain_all, does.DRAIN_ALL),
            f"{ADMIN_PATH}/resume": (self.resume_all, does.RESUME_ALL),
            f"{of}/drain": (self.drain, does.DRAIN),
            f"{of}/resume": (self.resume, does.RESUME),
            f"{of}/engine": (self.switch, does.SWITCH),
            f"{of}/engines/{{engine}}/restart": (self.restart, does.RESTART),
        }
        return [
            described(web.get(f"{ADMIN_PATH}/services", self._guarded(self.services)), does.SERVICES),
            *(described(web.post(path, self._guarded(to)), operation) for path, (to, operation) in posts.items()),
        ]

    async def services(self, _request: web.Request) -> web.Response:
        last = self._reloader.last
        services = {name: self._describe(service) for name, service in self._gateway.services.items()}
        leaving = {service.name: service.n_in_flight for service in self._gateway.retiring}
        return json_response(
            {"services": services, "leaving": leaving, "last_reload": None if last is None else last.as_json()}
        )

    async def reload(self, request: web.Request) -> web.Response:
        outcome = await self._reloader.reload(f"admin {request[IDENTITY].id}")
        if outcome.problems:
            problems = "; ".join(outcome.problems)
            raise Conflict(f"the old configuration stays in force: {problems}", code="configuration_refused")
        return json_response(outcome.as_json())

    async def drain(self, request: web.Request) -> web.Response:
        return self._pause(request, [self._service(request)], is_paused=True)

    async def resume(self, request: web.Request) -> web.Response:
        return self._pause(request, [self._service(request)], is_paused=False)

    async def drain_all(self, request: web.Request) -> web.Response:
        return self._pause(request, list(self._gateway.services.values()), is_paused=True)

    async def resume_all(self, request: web.Request) -> web.Response:
        return self._pause(request, list(self._gateway.services.values()), is_paused=False)

    async def switch(self, request: web.Request) -> web.Response:
        self._service(request)
        choice = parse(does.EngineChoice, await request.read())
        return await self._engine(request, choice.engine, "switch", lambda of: of.chain.switch(choice.engine))

    async def restart(self, request: web.Request) -> web.Response:
        name = request.match_info["engine"]
        return await self._engine(request, name, "restart", lambda of: of.chain.restart(name))

    async def _engine(
        self, request: web.Request, engine: str | None, action: str, wish: Callable[[Service], Awaitable[str]]
    ) -> web.Response:
        """202: it was granted, and takes its time."""
        service = self._service(request)
        told = await wish(service)
        request[RECORD].engine = engine
        _note(request, action, service=service.name, engine=engine)
        body = {"service": service.name, "engine": engine, "action": action, "what_happens": told}
        return json_response(body, status=202)

    def _pause(self, request: web.Request, services: list[Service], *, is_paused: bool) -> web.Response:
        for service in services:
            service.is_paused = is_paused
            _note(request, "drain" if is_paused else "resume", service=service.name)
        return json_response({"services": {service.name: self._describe(service) for service in services}})

    def _service(self, request: web.Request) -> Service:
        name = request.match_info["service"]
        service = self._gateway.services.get(name)
        if service is None:
            raise NotFound(f"there is no service {name!r}; there are {', '.join(self._gateway.services)}")
        request[RECORD].service = name
        return service

    def _describe(self, service: Service) -> dict[str, Any]:
        chain, of = service.chain, service.settings
        return {
            "model": of.model,
            "paths": list(of.paths),
            "port": of.port,
            "ready": chain.serving is not None,
            "paused": service.is_paused,
            "in_flight": service.n_in_flight,
            "running": service.admission.n_running,
            "waiting": service.admission.n_queued,
            "engine": chain.serving.engine.name if chain.serving else None,
            "pinned": chain.pinned.engine.name if chain.pinned else None,
            "engines": [_describe_link(number, link) for number, link in enumerate(chain.links)],
            "moving": self._roster.moving.get(service.name),
            "move_failed": self._roster.failures.get(service.name),
        }

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if not self._gateway.keyring.has_admins:
                raise NotFound(f"there is nothing at {request.path[:200]}")
            identity = request[IDENTITY] = authenticate(request.headers, self._gateway.keyring)
            request[RECORD].key_id = identity.id
            check_role(identity, "admin")
            for guard in self._gateway.guards:
                guard(request[RECORD])
            return await handler(request)

        return guarded


def _describe_link(number: int, link: Link) -> dict[str, Any]:
    return {
        "id": f"{number}:{link.engine.name}",
        "name": link.engine.name,
        "kind": link.engine.kind,
        "device": link.engine.device,
        "phase": link.phase,
        "held": link.is_held,
        "requests": len(link.serving.uses) if link.serving else 0,
        "starts": link.n_starts,
        "load_s": link.load_s,
        "last_failure": None if link.failure is None else str(link.failure),
    }


def _note(request: web.Request, action: str, *, service: str, engine: str | None = None) -> None:
    log.info("admin action", action=action, service=service, engine=engine, key_id=request[IDENTITY].id)
