"""What an operator or a load balancer asks of one service."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from backends.base import EngineState
from gguf_server import gpus
from gguf_server.api.live_status import describe_live
from gguf_server.api.plan_status import describe_plan
from gguf_server.conditions import CONDITIONS
from gguf_server.limits.requests import LIMITER
from gguf_server.link import Link
from gguf_server.middleware import json_response
from gguf_server.service import Service


class OpsApi:
    """Handlers that answer for one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, _request: web.Request) -> web.Response:
        body, status = health_of(self._service)
        return json_response(body, status=status, headers={"Retry-After": "2"} if status == 503 else None)

    async def index(self, _request: web.Request) -> web.Response:
        service = self._service
        return json_response(
            {
                "service": service.settings.title,
                "model": service.settings.display_model,
                "vllm_ready": _vllm_is_ready(service),
                "ready": service.chain.serving is not None,
                "engine": _engine_name(service),
                "endpoints": ["/health", "/status", "/chat", "/v1/chat/completions", "/v1/completions", "/v1/models"],
            }
        )

    async def status(self, request: web.Request) -> web.Response:
        service = self._service
        cards = await asyncio.to_thread(gpus.read)
        return json_response(
            {
                "service": service.settings.service_name,
                "title": service.settings.title,
                "model": service.settings.display_model,
                "model_id": service.settings.model,
                "max_model_len": service.settings.max_model_len,
                "ready": service.chain.serving is not None,
                "vllm_ready": _vllm_is_ready(service),
                "engine": _engine_name(service),
                "engines": [_describe(link) for link in service.chain.links],
                "queue": {
                    "running": service.admission.n_running,
                    "waiting": service.admission.n_queued,
                    "max_concurrent": service.settings.max_concurrent,
                    "max_queue": service.settings.max_queue,
                },
                "totals": {
                    "requests": service.totals.n_requests,
                    "prompt_tokens": service.totals.n_prompt_tokens,
                    "completion_tokens": service.totals.n_completion_tokens,
                    "truncated": service.totals.n_truncated,
                    "failovers": service.totals.n_failovers,
                    "unknown_fields": service.totals.n_unknown_fields,
                },
                "live": describe_live(service),
                "limits": request.app[LIMITER].status(),
                "uptime_s": round(time.time() - service.started_at, 1),
                "draining": service.draining,
                "paused": service.is_paused,
                "problems": {part: why for part, tell in request.app[CONDITIONS].items() if (why := tell())},
                "gpu": cards,
                "timestamp": _now(),
            }
        )


def health_of(service: Service) -> tuple[dict[str, Any], int]:
    """Body and status of `/health`."""
    settings = service.settings
    body: dict[str, Any] = {
        "status": "healthy",
        "service": settings.service_name,
        "model": settings.display_model,
        "engine": _engine_name(service),
        "vllm_server": "healthy" if _vllm_is_ready(service) else "unavailable",
        "timestamp": _now(),
    }
    if service.chain.serving is not None and service.takes_requests:
        return body, 200
    vllm_url = f"http://localhost:{settings.engine_port}" if settings.engine_port else None
    return {**body, "status": "vLLM not ready", "vllm_url": vllm_url, "loading": service.chain.is_loading}, 503


def _engine_name(service: Service) -> str | None:
    return service.chain.serving.engine.name if service.chain.serving else None


def _vllm_is_ready(service: Service) -> bool:
    return any(link.engine.kind == "vllm" and link.state is EngineState.READY for link in service.chain.links)


def _describe(link: Link) -> dict[str, Any]:
    failure = link.failure
    return {
        "name": link.engine.name,
        "kind": link.engine.kind,
        "device": link.engine.device,
        "state": link.state,
        "pid": link.engine.pid,
        "since": link.since.isoformat(),
        "starts": link.n_starts,
        "load_s": link.load_s,
        "plan": describe_plan(link.forecast),
        "failures": {str(reason): n for reason, n in link.failures.items()},
        "last_failure": None
        if failure is None
        else {
            "reason": failure.reason,
            "detail": failure.detail,
            "exit_code": failure.exit_code,
            "at": link.failed_at.isoformat() if link.failed_at else None,
            "log_tail": list(failure.log_tail[-20:]),
        },
    }


def _now() -> str:
    return datetime.now(UTC).isoformat()
