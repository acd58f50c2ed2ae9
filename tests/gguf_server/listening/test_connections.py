"""How many connections there may be, and what is answered to bytes that are no HTTP."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from ipaddress import ip_network
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gguf_server.listening import connections
from gguf_server.listening.clients import client_behind, counted_as, is_exempt
from gguf_server.listening.connections import Connections
from gguf_server.settings.listening import ConnectionSettings
from tests.gguf_server.gateway import KEY, gateway
from tests.gguf_server.listening.wire import get, wire_to

PROXIES = [ip_network("10.0.0.0/24"), ip_network("fd00::/8")]


class Idle:
    is_aborted = False
    n_checks = 0

    def check(self, now: float) -> None:
        self.n_checks += 1

    def abort(self) -> None:
        self.is_aborted = True


async def test_one_connection_too_many_is_answered_503_until_one_leaves() -> None:
    async with gateway((), tables={"connections": {"max_connections": 2}}) as gw, AsyncExitStack() as stack:
        first, second, third = [await stack.enter_async_context(wire_to(gw.url)) for _ in range(3)]
        for wire in (first, second):
            wire.send(get())
            assert (await wire.answer()).headers["content-type"] == "application/json"
        third.send(get())
        answer = await third.answer()
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "server_full", "1")
        assert await third.rest() == b""
        first.writer.close()
        await gw.until(lambda: len(gw.entrance.connections) == 1)
        async with wire_to(gw.url) as fourth:
            fourth.send(get())
            assert (await fourth.answer()).status in (200, 503)
            assert len(gw.entrance.connections) == 2


async def test_a_client_has_its_share_and_others_theirs() -> None:
    register = Connections(ConnectionSettings(max_per_client=2, trusted_proxies=("10.0.0.0/24",)))
    mine = [Idle() for _ in range(3)]
    refusals = [register.enter(connection, "192.168.1.7") for connection in mine]
    assert [refusal.status if refusal else None for refusal in refusals] == [None, None, 429]
    assert register.enter(Idle(), "192.168.1.8") is None
    for peer in ("127.0.0.1", "::1", "10.0.0.9"):
        assert [register.enter(Idle(), peer) for _ in range(4)] == [None] * 4
    register.leave(mine[0])
    assert register.enter(Idle(), "::ffff:192.168.1.7") is None
    register.close()
    assert all(connection.is_aborted for connection in mine[1:])


async def test_a_server_that_stood_still_blames_nobody() -> None:
    register, connection = Connections(ConnectionSettings()), Idle()
    register.enter(connection, "1.2.3.4")
    now = asyncio.get_running_loop().time()
    register._look(now - 5)
    assert connection.n_checks == 0
    register._look(now)
    assert connection.n_checks == 1
    register.leave(connection)
    register.close()


async def test_whom_nobody_has_time_to_turn_away_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MOST_TURNED_AWAY", 1)
    register = Connections(ConnectionSettings(max_connections=1))
    inside, told, cut = Idle(), Idle(), Idle()
    assert register.enter(inside, "1.2.3.4") is None
    assert all(register.enter(connection, "1.2.3.4") is not None for connection in (told, cut))
    assert (told.is_aborted, cut.is_aborted) == (False, True)
    register.close()


@pytest.mark.parametrize(
    ("peer", "counted"),
    [
        ("192.168.1.7", "192.168.1.7"),
        ("::ffff:192.168.1.7", "192.168.1.7"),
        ("2001:db8::1:2", "2001:db8::/64"),
        ("2001:db8::ffff:ffff", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_neighbours_of_one_network_card_count_as_one(peer: str, counted: str) -> None:
    assert counted_as(peer) == counted


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.2", [], "10.0.0.2"),
        ("10.0.0.2", ["1.1.1.1"], "1.1.1.1"),
        ("10.0.0.2", ["9.9.9.9, 1.1.1.1", "10.0.0.3"], "1.1.1.1"),
        ("10.0.0.2", ["nonsense, 10.0.0.3"], "10.0.0.3"),
        ("192.168.1.7", ["1.1.1.1"], "192.168.1.7"),
        ("fd00::1", ["::ffff:1.1.1.1"], "1.1.1.1"),
    ],
)
def test_a_forwarded_address_is_believed_from_a_trusted_proxy_alone(
    peer: str, forwarded: list[str], client: str
) -> None:
    assert client_behind(peer, forwarded, PROXIES) == client


def test_many_may_be_behind_loopback_and_proxies() -> None:
    assert [is_exempt(peer, PROXIES) for peer in ("127.8.9.1", "::1", "10.0.0.200", "10.0.1.1")] == [
        True,
        True,
        True,
        False,
    ]


async def test_an_expectation_nobody_can_meet_is_refused_in_our_shape() -> None:
    async with gateway(()) as gw, wire_to(gw.url) as wire:
        wire.send(get(more="Expect: miracles\r\n"))
        answer = await wire.answer()
        assert (answer.status, answer.code) == (417, "expectation_failed")
        assert b"miracles" not in answer.body
        assert await wire.rest() == b""


async def test_new_limits_hold_for_new_connections() -> None:
    async with gateway((), tables={"connections": {"idle_timeout_s": 1000}}) as gw, wire_to(gw.url) as old:
        old.send(get())
        await old.answer()
        gw.entrance.connections.limits = ConnectionSettings(max_connections=1)
        async with wire_to(gw.url) as wire:
            wire.send(get())
            assert (await wire.answer()).status == 503
        old.send(get())
        assert (await old.answer()).status != 429


NOT_HTTP = [
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\n\r\n", 400),
    (b"GET /SECRET\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost: localhost\r\nSECRET: a\x01b\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"SECRET" * 5000 + b"\r\n\r\n", 431),
    (b"GET /" + b"SECRET" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
    (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: SECRET\r\n" * 200 + b"\r\n", 431),
    (b"POST /chat HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET ", 400),
    (b"POST /chat HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nSECRET", 400),
    (b"POST /chat HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
    (b"POST /chat HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
]


@pytest.mark.parametrize(("sent", "status"), NOT_HTTP)
async def test_what_is_no_http_is_told_in_our_shape_and_not_repeated(
    sent: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), capture_logs() as logs:
        async with gateway(()) as gw, wire_to(gw.url) as wire:
            wire.send(sent)
            answer = await wire.answer()
            assert await wire.rest() == b""
    assert answer.status == status
    assert answer.code in ("malformed_request", "headers_too_large")
    assert answer.headers["server"] == "gguf-server"
    assert answer.headers["connection"] == "close"
    told = caplog.text + str(logs) + answer.body.decode()
    assert "SECRET" not in told
    assert "Traceback" not in told


@pytest.mark.parametrize(("trusted", "client"), [(["127.0.0.0/8"], "203.0.113.9"), ([], "127.0.0.1")])
async def test_the_audit_names_the_client_behind_a_trusted_proxy(
    tmp_path: Path, trusted: list[str], client: str
) -> None:
    tables = {"connections": {"trusted_proxies": trusted}, "audit": {"file": tmp_path / "audit.jsonl"}}
    async with gateway((), tables=tables) as gw, wire_to(gw.url) as wire:
        wire.send(get("/v1/models", more=f"Authorization: Bearer {KEY}\r\nX-Forwarded-For: 1.1.1.1, 203.0.113.9\r\n"))
        assert (await wire.answer()).status == 200
    assert f'"{client}"' in (tmp_path / "audit.jsonl").read_text()
