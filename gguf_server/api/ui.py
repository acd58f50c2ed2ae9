"""The page at `/ui`: its files, which anybody may read, and the services that whoever has a key may ask.

The files come with the package and are read once, into a fixed table: a name that is not in it is not found, whatever
it spells. The page loads nothing from elsewhere and has no inline script or style, which its Content-Security-Policy
holds it to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Any, Final

from aiohttp import ETag, web

from gguf_server.api.operations import unlisted
from gguf_server.errors import NotFound
from gguf_server.limits.requests import LIMITS
from gguf_server.middleware import json_response
from gguf_server.request_record import RECORD
from gguf_server.service import Service
from gguf_server.settings.ui import UI_PATH

_INDEX: Final = "index.html"
_CONTENT_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
_POLICY: Final = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    content: bytes
    content_type: str
    etag: ETag


@cache
def page_files() -> Mapping[str, PageFile]:
    """Every file of the page by its name below `/ui/`."""
    return dict(_read(resources.files("gguf_server").joinpath("ui"), ""))


class UiApi:
    """`mounts`: the services of this listener by their paths."""

    def __init__(self, mounts: Mapping[str, Service], *, max_body_bytes: int) -> None:
        self._mounts = mounts
        self._max_body_bytes = max_body_bytes
        self._files = page_files()

    def routes(self) -> list[web.RouteDef]:
        """What needs no key. The page's own links are relative, so that it may stand behind a proxy's prefix."""
        return [
            unlisted(web.get(UI_PATH, self.index)),
            unlisted(web.get(f"{UI_PATH}/", self.to_index)),
            unlisted(web.get(f"{UI_PATH}/{{name:.+}}", self.file)),
        ]

    async def index(self, request: web.Request) -> web.Response:
        return _answer(request, self._files[_INDEX])

    async def to_index(self, _request: web.Request) -> web.Response:
        return web.Response(status=308, headers={"Location": "../ui"})

    async def file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._files or name == _INDEX:
            raise NotFound("the page has no such file")
        request[RECORD].is_page_part = True
        return _answer(request, self._files[name])

    async def services(self, request: web.Request) -> web.Response:
        """Each service that this key may ask once, under the first of its paths here."""
        first_paths: dict[str, str] = {}
        for path, service in self._mounts.items():
            if request[LIMITS].allows(service.name):
                first_paths.setdefault(service.name, path)
        found = [_describe(path, self._mounts[path]) for path in first_paths.values()]
        return json_response({"services": found, "max_body_bytes": self._max_body_bytes})


def _describe(path: str, service: Service) -> dict[str, Any]:
    """What the page has to know before it can ask: what is taken, and what is used where nothing is said."""
    settings = service.settings
    return {
        "path": path,
        "name": service.name,
        "title": settings.title,
        "model": settings.model,
        "task": settings.task,
        "images": settings.images,
        "max_model_len": settings.max_model_len,
        "defaults": {
            "max_tokens": settings.default_max_tokens,
            "temperature": settings.sampling.temperature,
            "top_p": settings.sampling.top_p,
            "enable_thinking": settings.enable_thinking,
        },
    }


def _read(folder: Traversable, prefix: str) -> Iterator[tuple[str, PageFile]]:
    for entry in folder.iterdir():
        name = prefix + entry.name
        if entry.is_dir():
            yield from _read(entry, f"{name}/")
        elif content_type := _CONTENT_TYPES.get(PurePosixPath(name).suffix):
            content = entry.read_bytes()
            yield name, PageFile(content, content_type, ETag(hashlib.sha256(content).hexdigest()[:32]))


def _answer(request: web.Request, file: PageFile) -> web.Response:
    """The file, or 304 to who has it already."""
    known = request.if_none_match or ()
    if any(tag.value in (file.etag.value, "*") for tag in known):
        answer = web.Response(status=304, headers=_HEADERS)
    else:
        answer = web.Response(body=file.content, content_type=file.content_type, charset="utf-8", headers=_HEADERS)
    answer.etag = file.etag
    return answer
