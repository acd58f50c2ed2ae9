"""Under which names the server may be called."""

from __future__ import annotations

import socket

import pytest

from gguf_server.errors import WrongHost
from gguf_server.listening.hosts import check_host
from gguf_server.settings import ServerSettings
from tests.gguf_server.gateway import gateway
from tests.gguf_server.listening.wire import get, wire_to

LOOPBACK = ServerSettings()
OPEN = ServerSettings(host="0.0.0.0")
NAMED = ServerSettings(host="0.0.0.0", allowed_hosts=("ai.ward.example", "*.lab.example"))


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:8040",
        "app.localhost",
        "127.0.0.1:8040",
        "[::1]:8040",
        "192.168.1.5",
        "host.docker.internal:8040",
        socket.gethostname(),
    ],
)
def test_this_machine_goes_by_its_own_names(host: str) -> None:
    check_host(host, LOOPBACK)


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "evil.example:8040", "a@localhost", "localhost/x", "", "[::1"]
)
def test_a_page_whose_name_points_here_is_refused(host: str) -> None:
    with pytest.raises(WrongHost, match="allowed_hosts"):
        check_host(host, LOOPBACK)


@pytest.mark.parametrize("host", ["ai.ward.example", "AI.ward.example.:443", "x.lab.example", "10.0.0.1:8040"])
def test_names_that_are_allowed_are_answered(host: str) -> None:
    check_host(host, NAMED)


@pytest.mark.parametrize("host", ["localhost", "lab.example", "xlab.example", "ward.example"])
def test_other_names_are_refused(host: str) -> None:
    with pytest.raises(WrongHost):
        check_host(host, NAMED)


@pytest.mark.parametrize("server", [OPEN, ServerSettings(allowed_hosts=("*",))])
def test_without_a_list_an_open_server_goes_by_any_name(server: ServerSettings) -> None:
    check_host("whatever.example", server)


async def test_the_refusal_names_the_setting() -> None:
    async with gateway(()) as gw, wire_to(gw.url) as wire:
        wire.send(get(host="evil.example"))
        answer = await wire.answer()
        assert (answer.status, answer.code) == (421, "wrong_host")
        assert b"allowed_hosts" in answer.body
        wire.send(b"GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await wire.answer()).status == 421
        wire.send(get())
        assert (await wire.answer()).status != 421
