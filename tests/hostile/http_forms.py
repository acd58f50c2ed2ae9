"""HTTP that is not, or hardly, HTTP; and HTTP that is sound and seldom seen."""

from __future__ import annotations

import json
import random
from typing import Final

from tests.hostile.bodies import TAKEN
from tests.hostile.case import CHAT, KEY, MARKER, Case, Generator, chat_body, post_json, request

MALFORMED: Final = frozenset((400, 408, 431))
_HEAD: Final = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n".encode()
_CHUNKED: Final = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
_BODY: Final = json.dumps(chat_body()).encode()
_GET: Final = request("GET", "/health")


def _asking(line: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join((line, b"Host: a", *headers, b"", b""))


def _with(header: bytes, body: bytes = b"") -> bytes:
    return _HEAD + header + b"\r\n\r\n" + body


_HEALTH: Final = b"GET /health HTTP/1.1"
_MALFORMED: Final = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00" * 50, b"GET\r\n\r\n",
    b"HELO localhost\r\n\r\n", b"GET /health HTTP/1.1\r\n\r\n", b"GET /health HTTP/1.1\nHost: a\n\n",
    b"GET /health HTTP/1.1\rHost: a\r\r", b"GET /health\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    _asking(b"GET /health HTTP/3.7"), _asking(b"GET /hea lth HTTP/1.1"), _asking(b"G\xc3\x8bT /health HTTP/1.1"),
    _asking(b"GET /" + b"x" * 20_000 + b" HTTP/1.1"), _asking(_HEALTH, b"Host: b"), _asking(_HEALTH, b"No colon"),
    _asking(_HEALTH, b"X : y"), _asking(_HEALTH, b"X: a\x00b"), _asking(_HEALTH, b": empty"),
    _asking(_HEALTH, b"X: 1", b" folded"), _asking(_HEALTH, b"\x0bX: y"), _asking(_HEALTH, b"X: " + b"y" * 20_000),
    _asking(_HEALTH, *[b"X: y"] * 300),
    _with(b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n" + _GET),
    _with(b"Transfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n" + _GET),
    _with(b"Content-Length: 5\r\nContent-Length: 6", b"hello!"), _with(b"Content-Length: 5, 5", b"hello"),
    _with(b"Content-Length: -5"), _with(b"Content-Length: 0x10"), _with(b"Content-Length: +5", b"hello"),
    _with(b"Content-Length: 99999999999999999999999"), _with(b"Transfer-Encoding: gzip", b"hello"),
    _with(b"Transfer-Encoding: chunked, identity", b"0\r\n\r\n"), _with(b"Transfer-Encoding: xchunked", b"0\r\n\r\n"),
    _CHUNKED + b"zz\r\n", _CHUNKED + b"-1\r\n", _CHUNKED + b"ffffffffffffffffff\r\n", _CHUNKED + b"5 ;a=\r\n",
    _CHUNKED + b"5\r\nhelloX\r\n0\r\n\r\n", _CHUNKED + b"2\r\n{}\r\n0\r\nBad trailer\r\n\r\n",
)  # fmt: skip
_LENIENTLY_READ: Final = (
    b"GET /health\r\n\r\n", b"\r\n" * 3, b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    _asking(b"GET  /health  HTTP/1.1"), _asking(b"GET /\xff\xfe HTTP/1.1"), _asking(b"CONNECT localhost:22 HTTP/1.1"),
    _asking(b"GET http:// HTTP/1.1"), _asking(b"GET http://[::1 HTTP/1.1"),
    b"OPTIONS * HTTP/1.1\r\nHost: a b\r\n\r\n", _with(b"Content-Encoding: br\r\nContent-Length: 2", b"{}"),
)  # fmt: skip


def malformed(dice: random.Random) -> Case:
    return Case("malformed", (dice.choice(_MALFORMED),), MALFORMED, may_close=True)


def leniently_read(dice: random.Random) -> Case:
    return Case("hardly HTTP", (dice.choice(_LENIENTLY_READ),), may_close=True)


def pipelined(dice: random.Random) -> Case:
    """Every one is answered, in order."""
    n = dice.choice((2, 5, 40))
    return Case("pipelined", (_GET * n,), frozenset((200,)), n_answers=n)


def chunked(dice: random.Random) -> Case:
    size = dice.choice((1, 7, 1000))
    chunks = b"".join(
        b"%x%s\r\n%s\r\n" % (len(part), dice.choice((b"", b";a=b")), part)
        for part in (_BODY[i : i + size] for i in range(0, len(_BODY), size))
    )
    trailer = dice.choice((b"", b"X-Trailer: " + MARKER.encode() + b"\r\n"))
    return Case("chunked", (_CHUNKED + chunks + b"0\r\n" + trailer + b"\r\n",), frozenset((200,)))


def expecting(dice: random.Random) -> Case:
    """100 comes first, which the reader skips; any other expectation is refused."""
    if dice.random() < 0.5:
        head = _HEAD + f"Expect: 100-continue\r\nContent-Length: {len(_BODY)}\r\n\r\n".encode()
        return Case("expecting", (head, 0.01, _BODY), frozenset((200,)))
    return Case("expecting", (post_json(CHAT, chat_body(), headers=[("Expect", MARKER)]),), frozenset((417,)))


def method(dice: random.Random) -> Case:
    verb = dice.choice(("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "HEAD", "PROPFIND", "BREW", "get", "M-SEARCH"))
    where = dice.choice((CHAT, "/health", "/v1/models", "/", "*", "/nowhere"))
    statuses = frozenset((200, 400, 401, 404, 405))
    return Case("method", (request(verb, where),), statuses, has_body=verb != "HEAD", may_close=verb in ("BREW", "get"))


_PATHS: Final = (
    "/../../etc/passwd", "//health", "/v1//models", "/v1/models/%2e%2e%2f%2e%2e", "/%00", "/%ff%fe", "/v1/models/%",
    "/v1/models/" + "a" * 4000, "/health?" + "a=1&" * 1000, "/v1/models/%F0%9F%A4%96", "/health#fragment", "/.git",
    "http://localhost/health", "http://localhost:1/v1/models", "/v1/models/a/b/c", "/;/", "/health%0d%0aX:1", "?",
    "/v1/chat/completions/", "/%2Fhealth", "/\\health", "/health?x=%zz", "/v1/models/%ED%A0%80", "/~", "/ui",
    "/ui/../x",
    "/ui/", "/ui/../../etc/passwd", "/docs", "/openapi.json", "/metrics", "/status", "/", "/admin", "/admin/keys",
)  # fmt: skip


def path(dice: random.Random) -> Case:
    return Case("path", (request("GET", dice.choice(_PATHS)),), frozenset((200, 308, 400, 401, 404, 405)))


_ODD_HEADERS: Final = (
    ("X-Request-Id", "x" * 500), ("X-Request-Id", f"\u00e9\u00ff{MARKER} "), ("Cookie", MARKER * 100),
    ("Via", "1.1 " * 99),
    ("Accept", "application/xml"), ("Accept-Encoding", "gzip;q=nonsense"), ("If-None-Match", "*"), ("TE", "trailers"),
    ("X-Forwarded-For", "1.2.3.4, " * 100), ("Forwarded", 'for="'), ("Upgrade", "websocket"), ("Upgrade", "h2c"),
    ("Connection", "close, keep-alive, upgrade"), ("Transfer-Encoding", ""), ("Content-Type", "\t"), ("X-Odd", ""),
    ("Origin", "null"), ("Accept-Language", "*" * 5000), ("Keep-Alive", "timeout=-1"), ("Sec-WebSocket-Key", "x"),
    ("If-Modified-Since", "Thu, 99 Foo 99999 99:99:99 GMT"), ("Range", "bytes=0-,-1"), ("Sec-WebSocket-Key1", MARKER),
)  # fmt: skip


def odd_header(dice: random.Random) -> Case:
    sent = post_json(CHAT, chat_body(), headers=[dice.choice(_ODD_HEADERS)])
    return Case("odd header", (sent,), TAKEN | {408})


def upgrading(dice: random.Random) -> Case:
    kind = dice.choice(("websocket", "h2c", "TLS/1.0"))
    asked = [("Connection", "Upgrade"), ("Upgrade", kind), ("Sec-WebSocket-Version", "13")]
    return Case("upgrading", (request("GET", "/v1/models", headers=asked),), frozenset((200, 400, 426)))


_CREDENTIALS: Final = (
    "", "Bearer", "Bearer ", f"Basic {MARKER}", f"Bearer {MARKER}", f"Bearer {KEY}x", f"bearer  {KEY[:-1]}", KEY,
    f"Bearer {MARKER}, Bearer {MARKER}2", "Bearer " + "A" * 7000, "Bearer null", "Bearer \t", "Bearer \u00ff",
)  # fmt: skip


def authorization(dice: random.Random) -> Case:
    asked = post_json(CHAT, chat_body(), headers=[("Authorization", dice.choice(_CREDENTIALS))], key=None)
    return Case("authorization", (asked,), frozenset((401,)))


_STRANGE_HOSTS: Final = (
    "evil.example", "localhost.evil.example", "evil.example:80", "a@localhost", "localhost/x", "[", "\u00e9",
)  # fmt: skip


def host(dice: random.Random) -> Case:
    return Case("host", (request("GET", "/health", host=dice.choice(_STRANGE_HOSTS)),), frozenset((400, 421)))


HTTP_FORMS: Final[tuple[Generator, ...]] = (
    malformed, malformed, malformed, leniently_read, pipelined, chunked, expecting, method, path, odd_header,
    odd_header, upgrading, authorization,
)  # fmt: skip
UNHURRIED_FORMS: Final = tuple(form for form in HTTP_FORMS if form is not leniently_read)
"""For a server that waits for ever for the rest of what was begun."""
