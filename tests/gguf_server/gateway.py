"""The gateway in this process, on a real socket, in front of fake engines in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from backends.base import Endpoint, EngineFailure, FailureReason
from backends.process import exit_in_words
from backends.supervised import LaunchPlan, SupervisedEngine
from gguf_server import gateway as shared_parts
from gguf_server.admission import Admission
from gguf_server.app import make_app
from gguf_server.bookkeeping import keeping_books
from gguf_server.chain import EngineChain
from gguf_server.engines import build
from gguf_server.engines import forecasts as planned
from gguf_server.forecast import Forecast
from gguf_server.keys import KeyRing
from gguf_server.limits.limiter import Limiter
from gguf_server.listening.site import Entrance
from gguf_server.service import Service
from gguf_server.settings import FailoverSettings, ServerSettings, ServiceSettings, Settings
from tests.backends.fake_engine import command

if TYPE_CHECKING:
    from gguf_server.tracing import Tracing

KEY = "test-key"
CALM = FailoverSettings(failback=False)
SOON = FailoverSettings(stall_s=0.4, probe_every_s=0.4, probe_timeout_s=1.0, failback=False)
"""For what is about hangs: a machine that is busy enough may take a healthy engine for one."""
LIMIT_S = 20.0


@dataclass(slots=True)
class Reply:
    """One answer as a client sees it. `events` are a stream's; `text` and `reasoning` what they or the body say."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    is_done: bool = False

    @property
    def engine(self) -> str | None:
        return self.headers.get("x-engine")

    @property
    def n_failovers(self) -> int:
        return int(self.headers["x-engine-failovers"])

    @property
    def error(self) -> dict[str, Any] | None:
        told = [event["error"] for event in self.events if "error" in event]
        found: dict[str, Any] | None = told[-1] if told else self.body.get("error")
        return found

    @property
    def choices(self) -> list[dict[str, Any]]:
        return [choice for event in self.events for choice in event.get("choices", ())] or self.body["choices"]

    def said(self, channel: str) -> str:
        return "".join(
            (choice.get("delta") or choice.get("message") or {}).get(channel) or "" for choice in self.choices
        )

    @property
    def text(self) -> str:
        return "".join(choice.get("text") or "" for choice in self.choices) or self.said("content")

    @property
    def finish(self) -> str | None:
        return next((choice["finish_reason"] for choice in self.choices if choice.get("finish_reason")), None)


@dataclass(slots=True)
class Gateway:
    service: Service
    url: str
    session: aiohttp.ClientSession
    fifo_dir: Path
    entrance: Entrance

    @property
    def keys_file(self) -> Path:
        return self.fifo_dir / "keys.json"

    @asynccontextmanager
    async def using(self, token: str) -> AsyncIterator[Gateway]:
        """The same for a client that has another key."""
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
            yield replace(self, session=session)

    @property
    def chain(self) -> EngineChain:
        return self.service.chain

    async def ask(self, path: str = "/v1/chat/completions", **body: Any) -> Reply:
        """A whole answer, or a stream to its end."""
        body = {"messages": [{"role": "user", "content": "Count"}]} | body if "prompt" not in body else body
        async with asyncio.timeout(LIMIT_S), self.session.post(self.url + path, json=body) as response:
            return await read_reply(response)

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        async with self.session.get(self.url + path) as response:
            return response.status, await response.json()

    async def arm(self, name: str, kind: str, **fault: Any) -> None:
        """Have a running engine suffer."""
        endpoint = self.link(name).engine.endpoint
        connector = aiohttp.UnixConnector(endpoint.uds_path or "")
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post("http://localhost/_fault", json={"kind": kind, **fault}) as response,
        ):
            assert response.status == 200, await response.text()

    def link(self, name: str) -> Any:
        return next(link for link in self.chain.links if link.engine.name == name)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a change in the chain."""
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                await asyncio.sleep(0.005)

    async def until_up(self, *names: str) -> None:
        await self.until(lambda: all(self.link(name).serving is not None for name in names))


async def read_reply(response: aiohttp.ClientResponse) -> Reply:
    reply = Reply(response.status, {key.lower(): value for key, value in response.headers.items()})
    if response.content_type != "text/event-stream":
        reply.body = await response.json()
        return reply
    async for line in response.content:
        if line == b"data: [DONE]\n":
            reply.is_done = True
        elif line.startswith(b"data: "):
            assert not reply.is_done
            reply.events.append(json.loads(line.removeprefix(b"data: ")))
    return reply


def classify(exit_code: int, log_tail: tuple[str, ...]) -> EngineFailure:
    detail = exit_in_words(exit_code)
    return EngineFailure(FailureReason.CRASHED, detail, exit_code=exit_code, log_tail=log_tail)


def fake(name: str, *flags: str, folder: Path, card: int | None = None) -> SupervisedEngine:
    """`flags` are those of `tests.backends.fake_engine`."""

    def plan() -> LaunchPlan:
        uds = str(folder / f"{secrets.token_hex(4)}.sock")
        key = secrets.token_hex(8)
        return LaunchPlan(
            argv=command("--uds", uds, *flags),
            env={**os.environ, "FAKE_ENGINE_KEY": key},
            endpoint=Endpoint(
                "http://localhost", key, uds, steps_metrics=("fake_steps_total",), continues_reasoning=True
            ),
            served_model="fake",
            load_timeout_s=30.0,
            classify=classify,
        )

    kind, device = "vllm" if name == "a" else "llamacpp", "cpu" if card is None else "cuda"
    return SupervisedEngine(name=name, kind=kind, device=device, plan=plan, cuda_device=card)


@asynccontextmanager
async def gateway(
    *engines: Sequence[str],
    standby: str = "cold",
    failover: FailoverSettings = CALM,
    forecasts: list[Forecast] | None = None,
    limiter: Limiter | None = None,
    tracing: Tracing | None = None,
    tables: Mapping[str, Any] = MappingProxyType({}),
    **settings: Any,
) -> AsyncIterator[Gateway]:
    """A started gateway over engines called a, b, c: each a tuple of the fake engine's flags. Not yet ready.

    Without any, the engines are those of the settings. Its key file, which need not be there, is `Gateway.keys_file`.
    `tables` are those of the configuration beside `server`; usage is kept only where they say so.
    """
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        names = "abcdef"[: len(engines)]
        made = [fake(name, *flags, folder=Path(folder)) for name, flags in zip(names, engines, strict=True)]
        of = ServiceSettings.model_validate(
            {
                "model": "fake",
                "service_name": "fake_service",
                "title": "Fake",
                "paths": [""],
                "max_model_len": 8192,
                "engines": [{"kind": "llamacpp"}],
                "max_concurrent": 16,
                "timeout_s": LIMIT_S,
                **settings,
            }
        )
        chain = EngineChain(
            "fake",
            made or build(of, Path(folder)),
            warm_standby=standby == "warm",
            settings=failover,
            forecasts=forecasts if made else planned(of, Path(folder), None),
        )
        service = Service("fake", of, chain, Admission(of.max_concurrent, of.max_queue))
        keyring = KeyRing(Path(folder) / "keys.json", (KEY,))
        server = ServerSettings(max_body_bytes=1 << 20)
        all_settings = Settings.model_validate({"server": server, "usage": {"enabled": False}, **tables})
        shared = shared_parts.Gateway(
            all_settings, keyring, {"fake": service}, limiter=limiter or Limiter(), tracing=tracing
        )
        keeping = AsyncExitStack()
        await keeping.enter_async_context(keeping_books(shared))
        runner = web.AppRunner(make_app(shared, {"": service}), access_log=None, handler_cancellation=True)
        await runner.setup()
        entrance = Entrance(all_settings)
        await entrance.site(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        owner = asyncio.create_task(chain.run())
        try:
            async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
                yield Gateway(service, f"{entrance.scheme}://127.0.0.1:{port}", session, Path(folder), entrance)
        finally:
            await runner.cleanup()
            await keeping.aclose()
            entrance.close()
            owner.cancel()
            await asyncio.wait([owner])
            assert service.n_in_flight == 0
