"""What every request passes."""

from __future__ import annotations

import contextlib

import pytest
from aiohttp import ClientPayloadError, ServerDisconnectedError, web
from pytest_aiohttp.plugin import AiohttpClient
from structlog.testing import capture_logs

from gguf_server.middleware import add_request_id, identify_and_log, render_errors


async def broken(_request: web.Request) -> web.Response:
    raise RuntimeError("PATIENT said something")


async def left(request: web.Request) -> web.StreamResponse:
    """A client whose connection breaks while it is written to."""
    response = web.StreamResponse()
    await response.prepare(request)
    assert request.transport is not None
    request.transport.close()
    await response.write(b"more")
    return response


async def fine(_request: web.Request) -> web.Response:
    return web.Response(text="fine")


def make_app() -> web.Application:
    app = web.Application(middlewares=[identify_and_log, render_errors])
    app.on_response_prepare.append(add_request_id)
    app.router.add_get("/broken", broken)
    app.router.add_get("/left", left)
    app.router.add_get("/fine", fine)
    return app


async def test_an_unexpected_error_is_a_500_that_repeats_nothing(aiohttp_client: AiohttpClient) -> None:
    client = await aiohttp_client(make_app())
    with capture_logs() as logs:
        response = await client.get("/broken")
    assert response.status == 500
    assert "PATIENT" not in await response.text()
    assert "PATIENT" not in str([{**line, "place": None} for line in logs])
    (unexpected,) = [line for line in logs if line["event"] == "unexpected error"]
    assert unexpected["kind"] == "RuntimeError"
    assert "in broken" in "".join(unexpected["place"])
    assert unexpected["request_id"] == response.headers["x-request-id"]


async def test_a_client_that_left_is_no_error(aiohttp_client: AiohttpClient, caplog: pytest.LogCaptureFixture) -> None:
    client = await aiohttp_client(make_app())
    with capture_logs() as logs, contextlib.suppress(ClientPayloadError, ServerDisconnectedError):
        response = await client.get("/left")
        await response.read()
    (line,) = logs
    assert (line["event"], line["status"]) == ("request", 499)
    assert "Error handling request" not in caplog.text


@pytest.mark.parametrize("given", ["abc-123", "a:b.c_d"])
async def test_a_sound_request_id_is_kept(aiohttp_client: AiohttpClient, given: str) -> None:
    client = await aiohttp_client(make_app())
    response = await client.get("/fine", headers={"x-request-id": given})
    assert response.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "<script>"])
async def test_an_unsound_request_id_is_replaced(aiohttp_client: AiohttpClient, given: str) -> None:
    client = await aiohttp_client(make_app())
    response = await client.get("/fine", headers={"x-request-id": given})
    assert response.headers["x-request-id"].startswith("req-")
