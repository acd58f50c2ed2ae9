"""What an engine's answers amount to."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpServer

from backends.base import Endpoint
from gguf_server.engine_client import EngineClient, EngineError, Fault
from gguf_server.errors import BadRequest, ContextExceeded, GatewayError, ModelNotFound, QueueFull

# The shapes that vLLM, llama-server and the worker use.
OPENAI = {"error": {"message": "no", "type": "BadRequestError", "param": "top_p", "code": 400}}
BARE = {"error": "no"}
DETAIL = {"detail": "no"}
TOO_LONG = {"error": {"message": "This model's maximum context length is 2048 tokens.", "param": "input_tokens"}}


class Silent:
    """Nobody who wants to know when pieces come."""

    def heard(self) -> None: ...

    def waits(self) -> None: ...


async def ask(server_of: AiohttpServer, status: int, body: bytes) -> dict[str, object]:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=body)

    app = web.Application()
    app.router.add_post("/v1/x", handler)
    server = await server_of(app)
    client = EngineClient(Endpoint(f"http://127.0.0.1:{server.port}", "key"))
    try:
        return await client.post_json("/v1/x", {}, "req-1")
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, OPENAI, BadRequest),
        (400, BARE, BadRequest),
        (400, DETAIL, BadRequest),
        (400, TOO_LONG, ContextExceeded),
        (404, OPENAI, ModelNotFound),
        (429, OPENAI, QueueFull),
    ],
)
async def test_a_refusal_reaches_the_client_as_its_own_mistake(
    aiohttp_server: AiohttpServer, status: int, body: object, error: type[GatewayError]
) -> None:
    with pytest.raises(error):
        await ask(aiohttp_server, status, orjson.dumps(body))


async def test_the_field_at_fault_is_kept(aiohttp_server: AiohttpServer) -> None:
    with pytest.raises(BadRequest) as refused:
        await ask(aiohttp_server, 400, orjson.dumps(OPENAI))
    assert (refused.value.message, refused.value.param) == ("no", "top_p")


@pytest.mark.parametrize("status", [500, 502, 503, 401])
async def test_a_failure_is_the_engines_own(aiohttp_server: AiohttpServer, status: int) -> None:
    """401 too: the key between gateway and engine is none of the client's business."""
    with pytest.raises(EngineError):
        await ask(aiohttp_server, status, orjson.dumps(OPENAI))


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"choices": ['])
async def test_an_answer_that_is_not_json_is_a_failure(aiohttp_server: AiohttpServer, body: bytes) -> None:
    with pytest.raises(EngineError):
        await ask(aiohttp_server, 200, body)


async def test_an_engine_that_is_not_there_is_a_failure(unused_tcp_port: int) -> None:
    client = EngineClient(Endpoint(f"http://127.0.0.1:{unused_tcp_port}", "key"))
    with pytest.raises(EngineError):
        await client.post_json("/v1/x", {}, "req-1")
    await client.close()


async def test_a_stream_whose_engine_is_given_up_between_two_pieces_broke_off(aiohttp_server: AiohttpServer) -> None:
    is_over = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first")
        await is_over.wait()
        return response

    app = web.Application()
    app.router.add_post("/v1/x", handler)
    server = await aiohttp_server(app)
    client = EngineClient(Endpoint(f"http://127.0.0.1:{server.port}", "key"))
    async with client.stream("/v1/x", {}, "req-1", Silent()) as chunks:
        assert await anext(chunks) == b"first"
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)  # its connection is about to close, and nobody told the reader
        with pytest.raises(EngineError) as broke:
            await anext(chunks)
    assert broke.value.fault is Fault.BROKE_OFF
    is_over.set()
    await closing


async def test_an_engine_that_was_given_up_meanwhile_is_a_failure(unused_tcp_port: int) -> None:
    client = EngineClient(Endpoint(f"http://127.0.0.1:{unused_tcp_port}", "key"))
    await client.close()
    for asking in (client.post_json("/v1/x", {}, "req-1"), client.metrics(timeout_s=1.0)):
        with pytest.raises(EngineError) as failed:
            await asking
        assert failed.value.fault is Fault.GIVEN_UP
