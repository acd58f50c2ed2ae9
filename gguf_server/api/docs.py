"""`/openapi.json` and `/docs` of a listener, made when first asked for and kept."""

from __future__ import annotations

import orjson
from aiohttp import web

from gguf_server.api import openapi, server_operations
from gguf_server.api.docs_page import CONTENT_SECURITY_POLICY, page
from gguf_server.api.operations import described


class DocsApi:
    """Handlers of one listener, whose routes do not change once it answers."""

    def __init__(self) -> None:
        self._document: bytes | None = None
        self._page: str | None = None

    async def openapi(self, request: web.Request) -> web.Response:
        if self._document is None:
            self._document = orjson.dumps(openapi.describe(request.app))
        return web.Response(body=self._document, content_type="application/json")

    async def docs(self, request: web.Request) -> web.Response:
        if self._page is None:
            self._page = page(openapi.describe(request.app))
        headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "X-Content-Type-Options": "nosniff"}
        return web.Response(text=self._page, content_type="text/html", headers=headers)


def docs_routes() -> list[web.RouteDef]:
    docs = DocsApi()
    return [
        described(web.get("/openapi.json", docs.openapi), server_operations.OPENAPI),
        described(web.get("/docs", docs.docs), server_operations.DOCS),
    ]
