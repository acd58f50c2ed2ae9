"""A gateway whose configuration changes while it answers, over fake engines in processes of their own."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from backends.supervised import SupervisedEngine
from gguf_server.admission import Admission
from gguf_server.api.admin import AdminApi
from gguf_server.chain import EngineChain
from gguf_server.config import ConfigError
from gguf_server.gateway import Gateway
from gguf_server.keys import KeyRing
from gguf_server.listeners import Listeners, listening
from gguf_server.reload.lives import Lives
from gguf_server.reload.outcome import Outcome
from gguf_server.reload.reloader import Reloader
from gguf_server.reload.roster import Roster
from gguf_server.request_record import RequestRecord
from gguf_server.service import Service
from gguf_server.settings import ServiceSettings, Settings
from gguf_server.settings.engines import EngineSettings, LlamaServerEngineSettings
from tests.gguf_server.gateway import CALM, KEY, LIMIT_S, Reply, fake, read_reply

ADMIN = "admin-key"
SERVICE: dict[str, Any] = {
    "model": "fake",
    "service_name": "fake_service",
    "title": "Fake",
    "max_model_len": 8192,
    "max_concurrent": 16,
    "timeout_s": LIMIT_S,
    "failover": CALM.model_dump(),
}


def engine(name: str, *flags: str, card: int | None = None) -> dict[str, Any]:
    """An engine's settings; `flags` are those of the fake one."""
    on_card = {"device": "cpu"} if card is None else {"device": "cuda", "cuda_device": card}
    return {"kind": "llama-server", "name": name, "extra_args": flags, **on_card}


def service(*engines: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**SERVICE, "paths": [""], "engines": list(engines), **more}


@dataclass(slots=True)
class Running:
    gateway: Gateway
    roster: Roster
    reloader: Reloader
    listeners: Listeners
    session: aiohttp.ClientSession
    wanted: list[Any]
    records: list[RequestRecord] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listeners.port(0)}"

    async def reload(self, services: Mapping[str, Any], **server: Any) -> Outcome:
        self.wanted[0] = {"server": {"port": 0, **server}, "services": services}
        return await self.reloader.reload("test")

    async def ask(self, path: str = "", *, url: str | None = None, **body: Any) -> Reply:
        body = {"messages": [{"role": "user", "content": "Count"}]} | body
        address = (url or self.url) + path + "/v1/chat/completions"
        async with asyncio.timeout(LIMIT_S), self.session.post(address, json=body) as response:
            return await read_reply(response)

    async def call(self, method: str, path: str, body: Any = None, key: str = ADMIN) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"}
        async with self.session.request(method, self.url + path, json=body, headers=headers) as response:
            return response.status, await response.json()

    def chain(self, name: str = "s") -> EngineChain:
        return self.gateway.services[name].chain

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                await asyncio.sleep(0.005)

    async def until_up(self, *names: str) -> None:
        for name in names or ("s",):
            await self.until(lambda name=name: self.chain(name).serving is not None)

    async def until_settled(self) -> None:
        """No service is on its way to other engines, and none is leaving."""
        await self.until(lambda: not (self.roster.moving or self.gateway.retiring))


@asynccontextmanager
async def running(
    services: Mapping[str, Any], *, has_cards: bool = False, admins: tuple[str, ...] = (ADMIN,)
) -> AsyncIterator[Running]:
    """Not yet ready. Whatever is left in flight at the end is a failure."""
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        wanted: list[Any] = [{"server": {"port": 0}, "services": services}]

        def load() -> Settings:
            if isinstance(wanted[0], Exception):
                raise wanted[0]
            try:
                return Settings.model_validate(wanted[0])
            except ValueError as error:
                raise ConfigError(str(error)) from error

        def make_chain(name: str, settings: ServiceSettings, *, is_awaited: bool = False) -> EngineChain:
            return EngineChain(
                name,
                [_fake(engine, Path(folder)) for engine in settings.engines],
                settings=settings.failover,
                warm_standby=settings.standby == "warm",
                read_cards=_no_memory if has_cards else None,
                model=settings.model,
                is_awaited=is_awaited,
            )

        first = load()
        made = {
            name: Service(name, of, make_chain(name, of), Admission(of.max_concurrent, of.max_queue))
            for name, of in first.services.items()
        }
        keyring = KeyRing(Path(folder) / "keys.json", (KEY,), admins)
        gateway = Gateway(first, keyring, made)
        async with listening(gateway) as listeners, asyncio.TaskGroup() as owners:
            lives = Lives(owners)
            roster = Roster(gateway, lives, make_chain, listeners.update)
            reloader = Reloader(
                gateway, roster, listeners, load=load, open_keyring=lambda _: keyring, has_cards=has_cards
            )
            gateway.shared_routes += AdminApi(gateway, roster, reloader).routes()
            listeners.update()
            roster.start()
            try:
                async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
                    here = Running(gateway, roster, reloader, listeners, session, wanted)
                    gateway.observers.append(here.records.append)
                    yield here
            finally:
                lives.cancel()
        assert all(service.n_in_flight == 0 for service in gateway.services.values())


def _fake(of: EngineSettings, folder: Path) -> SupervisedEngine:
    assert isinstance(of, LlamaServerEngineSettings)
    return fake(of.name, *of.extra_args, folder=folder, card=of.cuda_device)


def _no_memory() -> list[Any]:
    return []
