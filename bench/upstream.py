"""An OpenAI server that costs next to nothing, to stand behind what is measured in front of an engine.

    python -m bench.upstream --port 18090

A request is answered with `max_tokens` chunks of prepared bytes in vLLM's wire format, each written by itself unless
`--chunks-per-write` says otherwise. The pace is set while it runs, by `POST /pace` with

    {"interval_ms": 10, "in_step": true}     a chunk of every stream each 10 ms, all at once, as an engine's step gives
    {"interval_ms": 10, "in_step": false}    the same, but no two streams at once: whoever reads wakes up for each chunk
    {"interval_ms": 0, "in_step": false}     as fast as the other side reads
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import orjson

from bench.servers.story import LAST_BYTES, MODEL, N_PROMPT, ChunkBook, whole_answer

_BURST: Final = 16  # writes of one stream before another has its turn
_GOLDEN: Final = 0.6180339887  # parts a circle evenly, however many parts there are in the end
_MOST_TOKENS: Final = 1 << 20


@dataclass(slots=True)
class Pace:
    """`interval_s` between two writes of one stream; 0 is as fast as it is read."""

    interval_s: float = 0.0
    in_step: bool = True
    chunks_per_write: int = 1
    _n_streams: int = 0

    def first_due_s(self, now_s: float) -> float:
        """When a stream that begins now has its first write."""
        if not self.interval_s:
            return now_s
        self._n_streams += 1
        phase = 0.0 if self.in_step else _GOLDEN * self._n_streams % 1
        return self.interval_s * (now_s // self.interval_s + 1 + phase)


class Connection(asyncio.Protocol):
    """One client's connection: requests after each other, each with its length told."""

    _chat = ChunkBook(is_chat=True)
    _completion = ChunkBook(is_chat=False)

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._received = b""
        self._writes: Iterator[bytes] | None = None  # of the stream that is being sent
        self._next: asyncio.TimerHandle | asyncio.Handle | None = None
        self._due_s = 0.0
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("expected a connection of bytes")
        self._transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        self._writes = None
        if self._next is not None:
            self._next.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._answer_received()

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._next is None:
            self._go_on()

    def _answer_received(self) -> None:
        while self._writes is None and (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].decode("latin-1")
            length = _content_length(head)
            if len(self._received) < end + 4 + length:
                return
            body, self._received = self._received[end + 4 :][:length], self._received[end + 4 + length :]
            method, path, _ = head.split(" ", 2)
            try:
                self._answer(method, path, orjson.loads(body) if body else {})
            except (KeyError, TypeError, ValueError):
                self._send(b'{"detail":"Bad Request"}', status="400 Bad Request")

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> None:
        match method, path:
            case "GET", "/health":
                self._send(b"")
            case "GET", "/v1/models":
                self._send(orjson.dumps({"object": "list", "data": [{"id": MODEL, "max_model_len": _MOST_TOKENS}]}))
            case "POST", "/v1/chat/completions" | "/v1/completions":
                self._generate(body, is_chat=path == "/v1/chat/completions")
            case "POST", "/tokenize":
                self._send(orjson.dumps({"count": N_PROMPT, "max_model_len": _MOST_TOKENS, "tokens": [0] * N_PROMPT}))
            case "POST", "/pace":
                self._pace.interval_s, self._pace.in_step = float(body["interval_ms"]) / 1000, bool(body["in_step"])
                self._send(b"{}")
            case _:
                self._send(b'{"detail":"Not Found"}', status="404 Not Found")

    def _send(self, body: bytes, status: str = "200 OK") -> None:
        kind = f"content-type: application/json\r\ncontent-length: {len(body)}"
        self._transport.write(f"HTTP/1.1 {status}\r\n{kind}\r\n\r\n".encode() + body)

    def _generate(self, body: Mapping[str, Any], *, is_chat: bool) -> None:
        n_chunks = int(body.get("max_tokens") or body.get("max_completion_tokens") or 16)
        if not body.get("stream"):
            self._send(whole_answer(n_chunks, is_chat=is_chat))
            return
        book = self._chat if is_chat else self._completion
        with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._writes = in_groups(book.chunks(n_chunks, with_usage=with_usage), self._pace.chunks_per_write)
        kind = b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked"
        self._transport.write(b"HTTP/1.1 200 OK\r\n" + kind + b"\r\n\r\n")
        loop = asyncio.get_running_loop()
        self._due_s = self._pace.first_due_s(loop.time())
        self._next = loop.call_at(self._due_s, self._go_on)

    def _go_on(self) -> None:
        """Send what is due of a stream, and see to it that the rest follows."""
        self._next = None
        if self._writes is None:
            return
        for piece in islice(self._writes, 1 if self._pace.interval_s else _BURST):
            self._transport.write(piece)
            if piece.endswith(LAST_BYTES):
                self._writes = None
                self._answer_received()
                return
            if self._is_paused:
                return
        loop = asyncio.get_running_loop()
        self._due_s += self._pace.interval_s
        self._next = loop.call_at(self._due_s, self._go_on) if self._pace.interval_s else loop.call_soon(self._go_on)


def in_groups(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """`size` of them at a time as one."""
    rest = iter(pieces)
    while group := b"".join(islice(rest, size)):
        yield group


def _content_length(head: str) -> int:
    for line in head.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            return int(value)
    return 0


async def serve(port: int, chunks_per_write: int) -> None:
    """Until it is cancelled; says where once it listens. All connections share one pace."""
    pace = Pace(chunks_per_write=chunks_per_write)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(pace), "127.0.0.1", port)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.upstream", description="Listens on loopback.")
    parser.add_argument("--port", type=int, default=18090, help="0 is any that is free")
    parser.add_argument("--chunks-per-write", type=int, default=1, help="1 is what an engine does")
    given = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(given.port, given.chunks_per_write))
    return 0


if __name__ == "__main__":
    sys.exit(main())
