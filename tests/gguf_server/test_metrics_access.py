"""Who may read the metrics, and where."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from pytest_aiohttp.plugin import AiohttpClient

from gguf_server import config
from gguf_server.app import make_app
from gguf_server.config import ConfigError
from gguf_server.gateway import Gateway
from gguf_server.keys import KeyRing
from gguf_server.metrics import listener
from gguf_server.metrics.access import MetricsKey, MetricsKeyError, open_key, problems
from gguf_server.settings import Settings
from gguf_server.settings.observing import MetricsSettings

API_KEY = "of-a-user"
METRICS_KEY = "of-the-watchers"


def gateway(folder: Path, key: str | None = None, **tables: Any) -> Gateway:
    settings = Settings.model_validate({"metrics": {"port": 0}, **tables})
    metrics_key = open_key(settings.metrics, {"GGUF_SERVER_METRICS_KEY": key} if key else {})
    return Gateway(settings, KeyRing(folder / "keys.json", (API_KEY,)), {}, metrics_key=metrics_key)


@asynccontextmanager
async def own_port(gateway: Gateway) -> AsyncIterator[int]:
    async with listener.metrics_listening(gateway) as port:
        assert port is not None
        yield port


async def status_of(url: str, key: str | None, **options: Any) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers, **options) as response:
        return response.status


async def test_a_port_of_its_own_asks_for_no_key(tmp_path: Path) -> None:
    async with own_port(gateway(tmp_path)) as port:
        assert await status_of(f"http://127.0.0.1:{port}/metrics", None) == 200
        assert await status_of(f"http://127.0.0.1:{port}/status", API_KEY) == 404


async def test_with_a_metrics_key_nothing_else_opens_that_port(tmp_path: Path) -> None:
    async with own_port(gateway(tmp_path, METRICS_KEY)) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        assert [await status_of(url, key) for key in (None, API_KEY, METRICS_KEY)] == [401, 401, 200]


async def test_where_metrics_are_for_other_machines_they_go_over_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, context = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(context)
    leaf = authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    leaf.private_key_pem.write_to_path(key)
    leaf.cert_chain_pems[0].write_to_path(certificate)
    monkeypatch.setattr(listener, "is_loopback", lambda _host: False)
    shown = gateway(tmp_path, METRICS_KEY, tls={"certificate": certificate, "key": key})
    async with own_port(shown) as port:
        assert await status_of(f"https://127.0.0.1:{port}/metrics", METRICS_KEY, ssl=context) == 200
        with pytest.raises(aiohttp.ClientError):
            await status_of(f"http://127.0.0.1:{port}/metrics", METRICS_KEY)


@pytest.mark.parametrize(
    ("metrics_key", "statuses"), [(None, {None: 401, API_KEY: 200}), (METRICS_KEY, {API_KEY: 401, METRICS_KEY: 200})]
)
async def test_on_the_listener_of_the_clients_an_api_key_opens_them_until_there_is_a_metrics_key(
    aiohttp_client: AiohttpClient, tmp_path: Path, metrics_key: str | None, statuses: dict[str | None, int]
) -> None:
    client = await aiohttp_client(make_app(gateway(tmp_path, metrics_key), {}))
    url = str(client.make_url("/metrics"))
    assert {key: await status_of(url, key) for key in statuses} == statuses


async def test_without_a_port_there_is_no_listener(tmp_path: Path) -> None:
    async with listener.metrics_listening(gateway(tmp_path, metrics={})) as port:
        assert port is None


def test_the_metrics_key_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("of-the-file\n")
    in_file = MetricsSettings(key_file=path)
    assert open_key(MetricsSettings(), {}) is None
    assert open_key(in_file, {}) == open_key(MetricsSettings(), {"GGUF_SERVER_METRICS_KEY": "of-the-file"})
    assert open_key(in_file, {"GGUF_SERVER_METRICS_KEY": "another"}) != open_key(in_file, {})
    assert isinstance(open_key(in_file, {}), MetricsKey)


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
def test_a_metrics_key_that_cannot_be_had_is_no_open_door(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MetricsKeyError, match=re.escape(str(path))):
        open_key(MetricsSettings(key_file=path), {})


def test_metrics_for_the_whole_network_need_a_key() -> None:
    exposed = MetricsSettings(host="0.0.0.0", port=9140)
    (problem,) = problems(exposed, {})
    assert "metrics.key_file" in problem
    assert problems(exposed, {"GGUF_SERVER_METRICS_KEY": "k"}) == []
    assert problems(MetricsSettings(host="0.0.0.0"), {}) == []
    assert problems(MetricsSettings(port=9140), {}) == []


def test_a_configuration_that_opens_them_to_the_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gguf-server.toml"
    path.write_text('[metrics]\nhost = "0.0.0.0"\nport = 9140\n[services.demo]\n')
    with pytest.raises(ConfigError, match="GGUF_SERVER_METRICS_KEY"):
        config.load(path, environ={})
    settings = config.load(path, environ={"GGUF_SERVER_METRICS_KEY": "k"})
    assert settings.metrics.port == 9140
