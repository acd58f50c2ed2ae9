"""Whoever dawdles is told so, and costs neither a connection nor an engine for long."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from gguf_server.listening.site import Entrance
from gguf_server.settings import Settings
from tests.gguf_server.gateway import gateway
from tests.gguf_server.listening.wire import LIMIT_S, asking, get, post, wire_to

SHORT = {"header_timeout_s": 0.2, "body_timeout_s": 0.2, "write_timeout_s": 0.2, "idle_timeout_s": 0.2}


def limits(**changed: float) -> dict[str, dict[str, float]]:
    return {"connections": changed}


@pytest.mark.parametrize("begun", [b"G", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
async def test_headers_that_never_end_are_answered_408(begun: bytes) -> None:
    async with gateway((), tables=limits(header_timeout_s=0.2)) as gw, wire_to(gw.url) as wire:
        wire.send(begun)
        answer = await wire.answer()
        assert (answer.status, answer.code) == (408, "request_too_slow")
        assert answer.headers["connection"] == "close"
        assert await wire.rest() == b""


async def test_the_second_request_of_a_connection_has_the_same_time() -> None:
    async with gateway((), tables=limits(header_timeout_s=0.2)) as gw, wire_to(gw.url) as wire:
        wire.send(get())
        assert (await wire.answer()).status in (200, 503)
        wire.send(b"GET /health HT")
        assert (await wire.answer()).status == 408


async def test_a_connection_that_says_nothing_is_closed() -> None:
    async with gateway((), tables=limits(idle_timeout_s=0.2)) as gw, wire_to(gw.url) as wire:
        assert await wire.rest() == b""


async def test_a_connection_that_was_used_is_closed_when_idle() -> None:
    async with gateway((), tables=limits(idle_timeout_s=0.2)) as gw, wire_to(gw.url) as wire:
        wire.send(get())
        await wire.answer()
        assert await wire.rest() == b""


async def test_a_body_that_does_not_come_is_answered_408() -> None:
    async with gateway((), tables=limits(body_timeout_s=0.2)) as gw, wire_to(gw.url) as wire:
        wire.send(post(b'{"messages"', n_bytes=1000))
        answer = await wire.answer()
        assert (answer.status, answer.code) == (408, "request_too_slow")
        assert answer.headers["x-should-retry"] == "false"
        assert await wire.rest() == b""
        assert gw.service.n_in_flight == 0


async def test_a_body_that_keeps_its_pace_has_time() -> None:
    """What came has bought another 100 s."""
    body = asking(metadata={"padding": "x" * 100_000})
    pace = limits(body_timeout_s=0.2, min_body_bytes_per_s=1000)
    async with gateway((), tables=pace) as gw, wire_to(gw.url) as late, wire_to(gw.url) as wire:
        await gw.until_up("a")
        wire.send(post(body[:-1], n_bytes=len(body)))
        late.send(post(b"", n_bytes=10))
        assert (await late.answer()).status == 408
        wire.send(body[-1:])
        assert (await wire.answer()).status == 200


async def test_an_answer_that_nobody_reads_is_given_up() -> None:
    """Its handler is cancelled, as that of a client who left."""
    given_up = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(65536))
        finally:
            given_up.set()

    app = web.Application()
    app.router.add_get("/health", endless)
    async with listener(app, write_timeout_s=0.2) as (url, entrance), wire_to(url, receive_buffer=4096) as wire:
        wire.send(get())
        async with asyncio.timeout(LIMIT_S):
            await given_up.wait()
            while len(entrance.connections):
                await asyncio.sleep(0)


async def test_the_end_of_an_answer_that_nobody_takes_does_not_keep_its_connection() -> None:
    """What is left of it is less than what makes writing wait."""

    async def large(_request: web.Request) -> web.Response:
        return web.Response(body=bytes(8 << 20), headers={"Connection": "close"})

    app = web.Application()
    app.router.add_get("/health", large)
    async with listener(app, write_timeout_s=0.2) as (url, entrance), wire_to(url, receive_buffer=4096) as wire:
        wire.send(b"GET /health HTTP/1.0\r\n\r\n")
        async with asyncio.timeout(LIMIT_S):
            await wire.reader.readexactly(1)
            while len(entrance.connections):
                await asyncio.sleep(0)


@asynccontextmanager
async def listener(app: web.Application, **limited: float) -> AsyncIterator[tuple[str, Entrance]]:
    entrance = Entrance(Settings.model_validate(limits(**limited)))
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        await entrance.site(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", entrance
    finally:
        await runner.cleanup()
        entrance.close()


async def test_a_body_of_zeros_that_unpacks_beyond_the_limit_is_answered_413() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(16)) + packer.flush()
    async with gateway(()) as gw, wire_to(gw.url) as wire:
        wire.send(post(bomb, more="Content-Encoding: gzip\r\n"))
        answer = await wire.answer()
        assert (answer.status, answer.code) == (413, "body_too_large")


async def test_a_packed_body_is_read() -> None:
    async with gateway(()) as gw, wire_to(gw.url) as wire:
        await gw.until_up("a")
        wire.send(post(gzip.compress(asking()), more="Content-Encoding: gzip\r\n"))
        assert (await wire.answer()).status == 200


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", b"this is not packed", 400),
        ("deflate", b"\x78\x9cneither is this", 400),
        ("br", b"x", 415),
        ("zstd", b"x", 415),
        ("snappy", b"x", 415),
        ("gzip, gzip", b"x", 415),
    ],
)
async def test_what_cannot_be_unpacked_is_the_clients_mistake(encoding: str, body: bytes, status: int) -> None:
    async with gateway(()) as gw, wire_to(gw.url) as wire:
        wire.send(post(body, more=f"Content-Encoding: {encoding}\r\n"))
        answer = await wire.answer()
        assert answer.status == status
        assert answer.code in ("bad_body", "unsupported_encoding")


async def test_nothing_is_left_of_clients_that_were_all_too_slow() -> None:
    async with gateway((), tables=limits(**SHORT)) as gw:
        wires = [wire_to(gw.url) for _ in range(20)]
        opened = [await wire.__aenter__() for wire in wires]
        for number, wire in enumerate(opened):
            wire.send((b"", b"GET", post(b"{", n_bytes=9), b"\x16\x03\x01")[number % 4])
        await asyncio.gather(*(wire.rest() for wire in opened))
        await gw.until(lambda: len(gw.entrance.connections) == 0)
        for wire_context in wires:
            await wire_context.__aexit__(None, None, None)
