"""What a route does, held beside it in the route table, for whoever reads `/openapi.json` and `/docs`.

    app.add_routes([described(web.get("/health", health), HEALTH)])

A route that is a part of a page, such as a style sheet, is `unlisted`. There is no second list of routes: the document
is built from the router, and a test finds every route one or the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web
from pydantic import BaseModel

from gguf_server.errors import GatewayError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_ATTRIBUTE: Final = "__operation__"


@dataclass(frozen=True, slots=True)
class Tag:
    """A heading, and what is said under it."""

    name: str
    description: str


SERVER: Final = Tag("This server", "What concerns all services of this listener.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One way in which a route answers.

    `model` is that of a JSON body, `events` that of each event of a stream, `media_type` that of any other body; an
    answer may be both of the first two, as the request wants it. `headers` are names of
    `gguf_server.api.openapi_parts.HEADERS`.
    """

    description: str
    model: type[BaseModel] | None = None
    events: type[BaseModel] | None = None
    media_type: str | None = None
    headers: tuple[str, ...] = ()
    example: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """`id` is unique among the operations of one `mount`, the path of a service; `tag` the heading it stands under.

    `errors` are those of the route's own. That a key, a body or its size is at fault goes without saying, and so does
    an internal error. `examples` are bodies by what they show; `parameters` say what is in the path.
    """

    id: str
    summary: str
    description: str = ""
    answers: Mapping[int, Answer]
    errors: tuple[type[GatewayError], ...] = ()
    body: type[BaseModel] | None = None
    examples: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    needs_key: bool = True
    tag: Tag = SERVER
    mount: str = ""


@dataclass(frozen=True, slots=True)
class Unlisted:
    """A part of something that is described elsewhere."""


def described(route: web.RouteDef, operation: Operation) -> web.RouteDef:
    return _marked(route, operation)


def unlisted(route: web.RouteDef) -> web.RouteDef:
    return _marked(route, Unlisted())


def operation_of(route: web.AbstractRoute) -> Operation | Unlisted | None:
    """None for a route that nobody has described."""
    found: Operation | Unlisted | None = getattr(route.handler, _ATTRIBUTE, None)
    return found


def _marked(route: web.RouteDef, mark: Operation | Unlisted) -> web.RouteDef:
    inner: Any = route.handler

    async def handler(request: web.Request) -> web.StreamResponse:
        answer: web.StreamResponse = await inner(request)
        return answer

    setattr(handler, _ATTRIBUTE, mark)
    return web.RouteDef(route.method, route.path, handler, route.kwargs)
