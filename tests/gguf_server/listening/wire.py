"""Bytes on a connection of the test's own."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.gguf_server.gateway import KEY

LIMIT_S = 15.0


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> Any:
        return json.loads(self.body)["error"]["code"]


@dataclass(slots=True)
class Wire:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def rest(self) -> bytes:
        """All until the server closes."""
        async with asyncio.timeout(LIMIT_S):
            return await self.reader.read()

    async def answer(self) -> Answer:
        """One answer that says its length."""
        async with asyncio.timeout(LIMIT_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
            return Answer(int(head[0].split()[1]), headers, body)


@asynccontextmanager
async def wire_to(url: str, *, receive_buffer: int | None = None) -> AsyncIterator[Wire]:
    parts = urlsplit(url)
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024 if receive_buffer else 1 << 20)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def post(body: bytes, *, path: str = "/v1/chat/completions", n_bytes: int | None = None, more: str = "") -> bytes:
    """A request of which `body` is sent and `n_bytes` are announced."""
    length = len(body) if n_bytes is None else n_bytes
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n{more}Content-Length: {length}\r\n"
    )
    return head.encode() + b"\r\n" + body


def get(path: str = "/health", *, host: str = "localhost", more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()


def asking(**body: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "Count"}], **body}).encode()
