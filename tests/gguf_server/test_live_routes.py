from __future__ import annotations

from typing import Any

from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from gguf_server.live_routes import LiveRoutes
from gguf_server.middleware import identify_and_log, render_errors


def saying(text: str) -> Any:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"text": text, "path": dict(request.match_info)})

    return handler


def an_app(live: LiveRoutes) -> web.Application:
    app = web.Application(middlewares=[identify_and_log, render_errors])
    app.router.register_resource(live)
    app.add_routes([web.get("/fixed", saying("fixed"))])
    return app


async def test_what_is_found_is_what_the_table_says_now(aiohttp_client: AiohttpClient) -> None:
    live = LiveRoutes()
    client = await aiohttp_client(an_app(live))
    assert (await client.get("/one/x")).status == 404
    live.replace([web.get("/one/{id:.+}", saying("first"))])
    assert await (await client.get("/one/a/b")).json() == {"text": "first", "path": {"id": "a/b"}}
    live.replace([web.get("/one/{id:.+}", saying("second")), web.get("/", saying("root"))])
    assert (await (await client.get("/one/x")).json())["text"] == "second"
    assert (await (await client.get("/")).json())["text"] == "root"
    live.replace([])
    assert (await client.get("/one/x")).status == 404
    assert (await (await client.get("/fixed")).json())["text"] == "fixed"


async def test_wrong_method_is_told_which_are_right(aiohttp_client: AiohttpClient) -> None:
    live = LiveRoutes()
    client = await aiohttp_client(an_app(live))
    live.replace([web.post("/chat", saying("chat")), web.delete("/chat", saying("gone"))])
    refused = await client.get("/chat")
    assert (refused.status, refused.headers["Allow"]) == (405, "DELETE, POST")
    assert (await refused.json())["error"]["code"] == "method_not_allowed"


def test_application_shows_the_routes_of_the_moment() -> None:
    live = LiveRoutes()
    app = an_app(live)
    live.replace([web.post("/chat", saying("chat"))])
    shown = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource}
    assert shown == {("GET", "/fixed"), ("HEAD", "/fixed"), ("POST", "/chat")}
