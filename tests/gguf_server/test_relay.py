"""The stream relay on a real socket, with an engine that is a list of chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import aiohttp
import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from gguf_server import events
from gguf_server.dialect_errors import error_fields, status_of
from gguf_server.engine_client import EngineError
from gguf_server.middleware import STREAM, identify_and_log, render_errors
from gguf_server.relay import EventStream

EVENTS = [b'data: {"n": %d}\n\n' % n for n in range(5)]
DONE = b"data: [DONE]\n\n"


async def chunks_of(chunks: Sequence[bytes], failure: Exception | None = None) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if failure is not None:
        raise failure


def app_streaming(
    chunks: Sequence[bytes], failure: Exception | None = None, *, show_usage: bool = False
) -> web.Application:
    async def handler(request: web.Request) -> web.StreamResponse:
        stream = request[STREAM] = EventStream(request, {"x-engine": "scripted"}, show_usage=show_usage)
        await stream.relay(chunks_of(chunks, failure))
        return stream.response

    app = web.Application(middlewares=[identify_and_log, render_errors])
    app.router.add_get("/", handler)
    return app


async def read(client_of: AiohttpClient, app: web.Application) -> tuple[aiohttp.ClientResponse, bytes]:
    client = await client_of(app)
    response = await client.get("/")
    return response, await response.read()


async def test_events_pass_through_unchanged(aiohttp_client: AiohttpClient) -> None:
    response, body = await read(aiohttp_client, app_streaming([*EVENTS, DONE]))
    assert body == b"".join(EVENTS) + DONE
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-engine"] == "scripted"


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_it_does_not_matter_where_the_network_cut_them(aiohttp_client: AiohttpClient, size: int) -> None:
    whole = b"".join(EVENTS) + DONE
    pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
    _, body = await read(aiohttp_client, app_streaming(pieces))
    assert body == whole


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
LIKE_USAGE = b'data: {"choices":[{"delta":{"content":"\\"choices\\":[]"}}]}\n\n'


@pytest.mark.parametrize("size", [5, 1000])
async def test_the_usage_is_shown_to_those_who_asked_only(aiohttp_client: AiohttpClient, size: int) -> None:
    whole = EVENTS[0] + LIKE_USAGE + USAGE + DONE
    pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
    _, body = await read(aiohttp_client, app_streaming(pieces, show_usage=True))
    assert body == whole
    _, body = await read(aiohttp_client, app_streaming(pieces))
    assert body == EVENTS[0] + LIKE_USAGE + DONE


async def test_an_engine_that_breaks_off_mid_event_ends_in_an_error_event(aiohttp_client: AiohttpClient) -> None:
    chunks = [EVENTS[0], b'data: {"half', b"-an-event"]
    response, body = await read(aiohttp_client, app_streaming(chunks, EngineError("gone")))
    assert response.status == 200
    assert body.startswith(EVENTS[0] + b'data: {"error":')
    assert b"half" not in body
    assert body.endswith(DONE)


async def test_a_silent_engine_is_covered_by_comments(aiohttp_client: AiohttpClient) -> None:
    seen = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield EVENTS[0]
        await seen.wait()
        yield DONE

    async def handler(request: web.Request) -> web.StreamResponse:
        stream = request[STREAM] = EventStream(request, {}, keep_alive_s=0.01)
        await stream.relay(chunks())
        return stream.response

    app = web.Application(middlewares=[identify_and_log, render_errors])
    app.router.add_get("/", handler)
    client = await aiohttp_client(app)
    async with client.get("/") as response:
        assert await response.content.readexactly(len(EVENTS[0])) == EVENTS[0]
        assert await response.content.readexactly(14) == b": keep-alive\n\n"
        seen.set()
        assert (await response.read()).endswith(DONE)


async def test_an_engine_that_just_stops_ends_in_an_error_event(aiohttp_client: AiohttpClient) -> None:
    _, body = await read(aiohttp_client, app_streaming(EVENTS[:2]))
    assert b'"code":"engine_failed"' in body
    assert body.endswith(DONE)


async def test_a_failure_before_the_first_event_keeps_its_status(aiohttp_client: AiohttpClient) -> None:
    response, body = await read(aiohttp_client, app_streaming([], EngineError("gone")))
    assert response.status == 500
    assert b'"code":"engine_failed"' in body


TOO_COMPLEX = "the grammar is too complex to go on with"
LOST = {"error": {"message": TOO_COMPLEX, "type": "server_error", "code": "engine_failed"}}


def test_a_grammar_that_cannot_be_followed_is_the_clients_as_an_answer() -> None:
    message, _, code = error_fields(LOST)
    assert (status_of(500, LOST), code) == (400, "grammar_not_followed")
    assert message == TOO_COMPLEX
    assert status_of(500, {"error": {"message": "the engine failed inside this request"}}) == 500


async def test_a_grammar_that_cannot_be_followed_is_the_clients_in_a_stream(aiohttp_client: AiohttpClient) -> None:
    """Another engine would come no further, and this one is well."""
    _, body = await read(aiohttp_client, app_streaming([EVENTS[0], events.encode(LOST), DONE]))
    assert b'"code":"grammar_not_followed"' in body
    assert body.endswith(DONE)
