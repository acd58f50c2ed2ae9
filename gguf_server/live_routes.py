"""A table of routes that can be replaced while the server runs; aiohttp's own is frozen once it listens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NoReturn

from aiohttp import web
from aiohttp.abc import AbstractMatchInfo
from yarl import URL


class LiveRoutes(web.AbstractResource):
    """One resource of an application, which every path comes to that no other resource takes.

    A request is resolved by the table of its moment, and goes on with the handler it found there whatever comes later.
    """

    canonical: Final = "/"

    def __init__(self) -> None:
        super().__init__(name=None)
        self._table = web.UrlDispatcher()

    def replace(self, routes: Iterable[web.AbstractRouteDef]) -> None:
        table = web.UrlDispatcher()
        table.add_routes(routes)
        table.freeze()
        self._table = table

    async def resolve(self, request: web.Request) -> tuple[web.UrlMappingMatchInfo | None, set[str]]:
        """Where nothing matches: no match, and the methods that the path would take."""
        found: AbstractMatchInfo = await self._table.resolve(request)
        if isinstance(found.http_exception, web.HTTPMethodNotAllowed):
            return None, found.http_exception.allowed_methods
        if found.http_exception is not None or not isinstance(found, web.UrlMappingMatchInfo):
            return None, set()
        return found, set()

    def __iter__(self) -> Iterator[web.AbstractRoute]:
        return iter(self._table.routes())

    def __len__(self) -> int:
        return len(self._table.routes())

    def raw_match(self, path: str) -> bool:
        return False

    def get_info(self) -> NoReturn:
        raise NotImplementedError("each of its routes tells of itself")

    def url_for(self, **kwargs: str) -> URL:
        raise NotImplementedError("it has no one address")

    def add_prefix(self, prefix: str) -> None:
        raise NotImplementedError("it belongs to the application that listens")
