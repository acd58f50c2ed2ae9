"""A hub of the tests' own on loopback: what the real client asks of one, and what can go wrong with it.

It runs in a thread with an event loop of its own, since the client blocks. Large files are given by another origin
(`localhost` in place of `127.0.0.1`), as the real one gives them by a storage service.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

COMMIT = "1" * 40
LARGE_BYTES = 1000  # files from this size on are large ones, known by their SHA-256


@dataclass
class Repo:
    files: dict[str, bytes]
    commit: str = COMMIT
    token: str | None = None  # needed to read it
    gated: bool = False


@dataclass
class Faults:
    """What the hub does wrong. Names are of files."""

    cut_after: dict[str, list[int]] = field(default_factory=dict)  # bytes sent before each of the first cuts
    sent_instead: dict[str, bytes] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)  # of the first requests for its content
    stalled: set[str] = field(default_factory=set)  # says that it comes, and sends nothing
    held: dict[str, int] = field(default_factory=dict)  # bytes sent before it waits for `release`
    ignores_range: bool = False
    announces: dict[str, object] = field(default_factory=dict)  # a listing's line, in place of the true one
    speaks_html: bool = False


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    host: str
    range: str | None
    has_token: bool


class Hub:
    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults = Faults()
        self.asked: list[Asked] = []
        self.sending = threading.Event()  # a held file was begun
        self._release = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def contents(self, *names: str) -> list[Asked]:
        """The requests for content of large files, in their order."""
        files = [file for repo in self.repos.values() for file in repo.files.items()]
        wanted = {f"/content/{_sha256(content)}" for name, content in files if name in names}
        return [asked for asked in self.asked if asked.path in wanted]

    def release(self) -> None:
        self._loop.call_soon_threadsafe(self._release.set)

    @contextmanager
    def running(self) -> Iterator[Hub]:
        started = threading.Event()
        thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve(started)))
        thread.start()
        started.wait()
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()
            self._loop.close()

    async def _serve(self, started: threading.Event) -> None:
        self._stop = asyncio.Event()
        app = web.Application()
        app.router.add_get("/api/models/{owner}/{name}/revision/{revision}", self._info)
        app.router.add_get("/api/models/{owner}/{name}/tree/{revision}", self._tree)
        app.router.add_get("/{owner}/{name}/resolve/{revision}/{file:.+}", self._file)
        app.router.add_get("/content/{sum}", self._content)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        started.set()
        await self._stop.wait()
        self._release.set()
        await runner.cleanup()

    def _note(self, request: web.Request) -> None:
        headers = request.headers
        self.asked.append(
            Asked(
                request.method,
                request.path,
                request.url.host or "",
                headers.get("Range"),
                "Authorization" in headers,
            )
        )

    def _repo(self, request: web.Request) -> Repo:
        """Raises the answer that a hub gives to who may not read it."""
        self._note(request)
        repo = self.repos.get(f"{request.match_info['owner']}/{request.match_info['name']}")
        if repo is None:
            raise web.HTTPNotFound(headers={"X-Error-Code": "RepoNotFound"})
        if repo.gated:
            raise web.HTTPForbidden(headers={"X-Error-Code": "GatedRepo"})
        if repo.token is not None and request.headers.get("Authorization") != f"Bearer {repo.token}":
            raise web.HTTPUnauthorized(headers={"X-Error-Code": "RepoNotFound"})
        if request.match_info["revision"] not in ("main", "v1", repo.commit):
            raise web.HTTPNotFound(headers={"X-Error-Code": "RevisionNotFound"})
        return repo

    async def _info(self, request: web.Request) -> web.Response:
        if self.faults.speaks_html:
            return web.Response(text="<html>please log in</html>", content_type="text/html")
        repo = self._repo(request)
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        return web.json_response({"id": name, "sha": repo.commit, "siblings": [], "private": False, "tags": []})

    async def _tree(self, request: web.Request) -> web.Response:
        repo = self._repo(request)
        lines = [self._line(name, content) for name, content in repo.files.items()]
        return web.json_response([self.faults.announces.get(str(line["path"]), line) for line in lines])

    def _line(self, name: str, content: bytes) -> dict[str, object]:
        line: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": git_sum(content)}
        if len(content) >= LARGE_BYTES:
            line["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 130}
        return line

    async def _file(self, request: web.Request) -> web.StreamResponse:
        repo = self._repo(request)
        content = repo.files.get(request.match_info["file"])
        if content is None:
            raise web.HTTPNotFound(headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.commit})
        if len(content) < LARGE_BYTES:
            headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{git_sum(content)}"'}
            return web.Response(body=content, headers=headers)
        checksum = _sha256(content)
        headers = {
            "Location": f"http://localhost:{self.port}/content/{checksum}",
            "X-Repo-Commit": repo.commit,
            "X-Linked-Etag": f'"{checksum}"',
            "X-Linked-Size": str(len(content)),
        }
        return web.Response(status=302, headers=headers)

    async def _content(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        name, content = next(
            (name, content)
            for repo in self.repos.values()
            for name, content in repo.files.items()
            if _sha256(content) == request.match_info["sum"]
        )
        if statuses := self.faults.statuses.get(name):
            return web.Response(status=statuses.pop(0))
        content = self.faults.sent_instead.get(name, content)
        return await self._send(request, name, content)

    async def _send(self, request: web.Request, name: str, content: bytes) -> web.StreamResponse:
        first = request.http_range.start or 0
        if first and not self.faults.ignores_range:
            answer = web.StreamResponse(status=206)
            answer.headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        else:
            answer, first = web.StreamResponse(), 0
        answer.content_length = len(content) - first
        await answer.prepare(request)
        if name in self.faults.stalled:
            await self._release.wait()
            return answer
        if cuts := self.faults.cut_after.get(name):
            await answer.write(content[first : first + cuts.pop(0)])
            assert request.transport is not None
            request.transport.close()
            return answer
        if name in self.faults.held:
            await answer.write(content[first : first + self.faults.held[name]])
            self.sending.set()
            await self._release.wait()
            first += self.faults.held[name]
        await answer.write(content[first:])
        return answer


def git_sum(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
