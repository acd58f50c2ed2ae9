"""How the page is served, without a browser."""

from __future__ import annotations

import re
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from pydantic import ValidationError
from structlog.testing import capture_logs
from yarl import URL

from gguf_server.admission import Admission
from gguf_server.api.ui import page_files
from gguf_server.app import make_app
from gguf_server.chain import EngineChain
from gguf_server.gateway import Gateway
from gguf_server.keys import KeyRing
from gguf_server.limits.policy import KeyLimits
from gguf_server.service import Service
from gguf_server.settings import ServiceSettings, Settings
from gguf_server.settings.ui import UiSettings
from tests.gguf_server.scripted_engine import ScriptedEngine

KEY = "test-key"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


def service(name: str, **fields: Any) -> Service:
    base = {
        "model": f"{name}-1b",
        "service_name": f"{name}_service",
        "title": name.title(),
        "paths": [f"/{name}"],
        "max_model_len": 4096,
        "engines": [{"kind": "llamacpp"}],
    }
    settings = ServiceSettings.model_validate(base | fields)
    return Service(name, settings, EngineChain(name, [ScriptedEngine("a")]), Admission(1, 1))


def shared(tmp_path: Any, *, enabled: bool = True) -> Gateway:
    services = [service("qwen", sampling={"temperature": 0.7}), service("gemma", paths=["/gemma", "/old"], images=True)]
    keyring = KeyRing(tmp_path / "keys.json", (KEY,))
    return Gateway(Settings(ui=UiSettings(enabled=enabled)), keyring, {of.name: of for of in services})


@pytest.fixture
async def client(aiohttp_client: Any, tmp_path: Any) -> TestClient[Any, Any]:
    gateway = shared(tmp_path)
    made: TestClient[Any, Any] = await aiohttp_client(make_app(gateway, gateway.shared_mounts))
    return made


async def test_the_page_needs_no_key_and_may_load_from_its_own_server_alone(client: TestClient[Any, Any]) -> None:
    answer = await client.get("/ui")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert policy["img-src"] == "'self' data:"
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    text = await answer.text()
    assert re.findall(r"<script(?! type=\"module\" src=\"ui/main.js\"></script>)|\son\w+=|style=", text) == []


async def test_every_file_has_its_type_and_is_not_sent_twice(client: TestClient[Any, Any]) -> None:
    types = {"js": "text/javascript", "css": "text/css", "json": "application/json", "svg": "image/svg+xml"}
    for name in page_files():
        if name == "index.html":
            continue
        answer = await client.get(f"/ui/{name}")
        assert answer.content_type == types[name.rpartition(".")[2]], name
        assert answer.headers["Cache-Control"] == "no-cache"
        again = await client.get(f"/ui/{name}", headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status, await again.read()) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/ui/../app.py",
        "/ui/%2e%2e/app.py",
        "/ui/..%2fapp.py",
        "/ui/chat/../../app.py",
        "/ui//etc/passwd",
        "/ui/%2fetc%2fpasswd",
        "/ui/chat",
        "/ui/index.html",
        "/ui/main.js%00",
        "/ui/texts/",
    ],
)
async def test_a_name_that_is_no_file_of_the_page_is_not_found(client: TestClient[Any, Any], path: str) -> None:
    answer = await client.get(URL(path, encoded=True))
    assert answer.status == 404
    assert (await answer.json())["error"]["code"] == "not_found"


async def test_a_slash_too_many_leads_to_the_page(client: TestClient[Any, Any]) -> None:
    answer = await client.get("/ui/")
    assert str(answer.url).endswith("/ui")


async def test_the_log_has_the_page_but_not_each_of_its_files(client: TestClient[Any, Any]) -> None:
    with capture_logs() as logs:
        for path in ("/ui", "/ui/main.js", "/ui/none.js"):
            await client.get(path)
    assert [(line["status"], line["log_level"]) for line in logs] == [(200, "info"), (200, "debug"), (404, "info")]


async def test_services_are_told_to_who_has_a_key_each_once(client: TestClient[Any, Any]) -> None:
    assert (await client.get("/ui/services")).status == 401
    body = await (await client.get("/ui/services", headers=AUTHORIZED)).json()
    told = [(of["path"], of["name"], of["model"], of["images"]) for of in body["services"]]
    assert told == [("/qwen", "qwen", "qwen-1b", False), ("/gemma", "gemma", "gemma-1b", True)]
    assert body["services"][0]["defaults"]["temperature"] == 0.7
    assert body["max_body_bytes"] == 10 * 1024 * 1024


async def test_a_key_is_told_of_the_services_it_may_ask(aiohttp_client: Any, tmp_path: Any) -> None:
    gateway = shared(tmp_path)
    gateway.limiter.defaults = KeyLimits(services=("gemma",))
    client = await aiohttp_client(make_app(gateway, gateway.shared_mounts))
    body = await (await client.get("/ui/services", headers=AUTHORIZED)).json()
    assert [of["name"] for of in body["services"]] == ["gemma"]


async def test_a_listener_of_one_service_has_the_page_for_that_one(aiohttp_client: Any, tmp_path: Any) -> None:
    gateway = shared(tmp_path)
    client = await aiohttp_client(make_app(gateway, {"": gateway.services["gemma"]}))
    assert (await client.get("/ui")).status == 200
    body = await (await client.get("/ui/services", headers=AUTHORIZED)).json()
    assert [(of["path"], of["name"]) for of in body["services"]] == [("", "gemma")]


async def test_switched_off_there_is_no_page(aiohttp_client: Any, tmp_path: Any) -> None:
    gateway = shared(tmp_path, enabled=False)
    client = await aiohttp_client(make_app(gateway, gateway.shared_mounts))
    for path in ("/ui", "/ui/", "/ui/main.js", "/ui/services"):
        assert (await client.get(path, headers=AUTHORIZED)).status == 404


def test_no_service_takes_the_pages_path_unless_it_is_off() -> None:
    taken = {"x": service("x", paths=["/ui"]).settings}
    with pytest.raises(ValidationError, match=r"ui\.enabled = false"):
        Settings(services=taken)
    assert Settings(services=taken, ui=UiSettings(enabled=False)).services["x"].paths == ("/ui",)
