"""One hostile (or healthy) client: what it sends, how it behaves, and what it may be answered."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

KEY = "key-of-the-hostile-clients"
MARKER = "streng-geheim-4711"
"""In all that is sent as a prompt or a secret; no log may hold it."""
CHAT, COMPLETIONS, SIMPLE = "/v1/chat/completions", "/v1/completions", "/chat"

After = Literal["read", "cut", "half_close", "ignore"]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")


def anything(_: Answer) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Case:
    """`parts`: bytes to send, and seconds to wait in between. `statuses`: what it may be answered; empty: anything but
    5xx. `may_close`: that it gets no answer at all is right as well. `after`: `cut` leaves at once, `half_close` says
    that it sends no more, `ignore` reads nothing until the server gives up.
    """

    kind: str
    parts: tuple[bytes | float, ...]
    statuses: frozenset[int] = frozenset()
    n_answers: int = 1
    may_close: bool = False
    after: After = "read"
    has_body: bool = True
    check: Callable[[Answer], str | None] = field(default=anything)


Generator = Callable[[random.Random], Case]


def request(
    method: str,
    path: str,
    body: bytes = b"",
    *,
    headers: Iterable[tuple[str, str]] = (),
    host: str = "localhost",
    key: str | None = KEY,
    version: str = "HTTP/1.1",
) -> bytes:
    """Well-formed where its arguments are."""
    lines = [f"{method} {path} {version}", f"Host: {host}"]
    lines += [f"Authorization: Bearer {key}"] if key is not None else []
    lines += [f"{name}: {value}" for name, value in headers]
    lines += [f"Content-Length: {len(body)}"] if body or method in ("POST", "PUT", "PATCH") else []
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


def chat_body(**changed: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"Say it. {MARKER}"}], "max_tokens": 4, **changed}


def post_json(path: str, body: Any, **how: Any) -> bytes:
    return request("POST", path, json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass"), **how)


def some_path(dice: random.Random) -> str:
    return dice.choice((CHAT, COMPLETIONS, SIMPLE))


def some_body(dice: random.Random, path: str) -> dict[str, Any]:
    """A sound body for `path`."""
    body: dict[str, Any] = {"max_tokens": dice.randint(1, 8)}
    if path == COMPLETIONS:
        body["prompt"] = MARKER
    elif path == SIMPLE:
        body[dice.choice(("message", "prompt"))] = MARKER
    else:
        body |= chat_body()
    return body
