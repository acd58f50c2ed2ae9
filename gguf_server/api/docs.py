"""`/openapi.json` and `/docs` of a listener, made when first asked for and kept."""

from __future__ import annotations

import orjson
from aiohttp import web

from gguf_server.api import openapi, server_operations
from gguf_server.api.operations import described


class DocsApi:
    """Handlers of one listener, whose routes do not change once it answers."""

    def __init__(self) -> None:
        self._document: bytes | None = None

    async def openapi(self, request: web.Request) -> web.Response:
        if self._document is None:
            self._document = orjson.dumps(openapi.describe(request.app))
        return web.Response(body=self._document, content_type="application/json")


def docs_routes() -> list[web.RouteDef]:
    docs = DocsApi()
    return [described(web.get("/openapi.json", docs.openapi), server_operations.OPENAPI)]
