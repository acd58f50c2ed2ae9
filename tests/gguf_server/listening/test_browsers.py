"""What browsers are told: headers on every answer, and which pages of other origins may come."""

from __future__ import annotations

from typing import Any

import pytest

from gguf_server.settings.listening import CorsSettings
from tests.gguf_server.gateway import Gateway, gateway

PAGE = "https://chat.example.org"
CHAT = "/v1/chat/completions"


async def ask(gw: Gateway, method: str, path: str = CHAT, **headers: str) -> tuple[int, dict[str, str]]:
    async with gw.session.request(method, gw.url + path, headers=headers, data=b"{}") as response:
        await response.read()
        return response.status, {name.lower(): value for name, value in response.headers.items()}


def cors_of(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("access-control") or name == "vary"}


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/health"), ("GET", "/nowhere"), ("POST", CHAT), ("GET", "/v1/models"), ("PUT", CHAT)]
)
async def test_every_answer_is_data_for_one_reader(method: str, path: str) -> None:
    async with gateway(()) as gw:
        _, headers = await ask(gw, method, path)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    assert headers["server"] == "gguf-server"
    assert "strict-transport-security" not in headers


async def test_a_stream_keeps_its_own_cache_control() -> None:
    async with gateway(()) as gw:
        await gw.until_up("a")
        reply = await gw.ask(stream=True)
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-content-type-options"] == "nosniff"


async def test_without_configuration_nothing_is_said_of_other_origins() -> None:
    async with gateway(()) as gw:
        status, headers = await ask(gw, "OPTIONS", Origin=PAGE, **{"Access-Control-Request-Method": "POST"})
        assert (status, cors_of(headers)) == (405, {})
        _, headers = await ask(gw, "GET", "/health", Origin=PAGE)
        assert cors_of(headers) == {}


def listening(*origins: str) -> dict[str, Any]:
    return {"cors": {"origins": origins}}


@pytest.mark.parametrize("origins", [(PAGE,), ("*",), ("https://other.example", PAGE)])
async def test_a_page_that_may_come_is_told_so(origins: tuple[str, ...]) -> None:
    async with gateway((), tables=listening(*origins)) as gw:
        asked = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
        }
        status, headers = await ask(gw, "OPTIONS", Origin=PAGE, **asked)
        assert status == 204
        assert headers["access-control-allow-origin"] == PAGE
        assert headers["access-control-allow-headers"] == "authorization,content-type,x-stainless-os"
        assert "POST" in headers["access-control-allow-methods"]
        assert "access-control-allow-credentials" not in headers
        assert headers["vary"] == "Origin"
        for method, path in (("GET", "/health"), ("GET", "/nowhere"), ("POST", CHAT)):
            _, headers = await ask(gw, method, path, Origin=PAGE)
            assert headers["access-control-allow-origin"] == PAGE
            assert "x-engine" in headers["access-control-expose-headers"]


async def test_another_page_is_told_nothing() -> None:
    async with gateway((), tables=listening(PAGE)) as gw:
        status, headers = await ask(
            gw, "OPTIONS", Origin="https://evil.example", **{"Access-Control-Request-Method": "POST"}
        )
        assert (status, cors_of(headers)) == (204, {"vary": "Origin"})
        _, headers = await ask(gw, "GET", "/health", Origin="https://evil.example")
        assert cors_of(headers) == {"vary": "Origin"}


@pytest.mark.parametrize("origin", ["chat.example.org", "https://chat.example.org/", "https://a.example/x", "null", ""])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="expected an origin"):
        CorsSettings(origins=(origin,))
