"""Requests that hold a marker wherever a request can hold anything, sound ones and broken ones."""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable, Iterator
from typing import Any

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"

Json = dict[str, Any]

MARKER = "bí-mật-7f3a"
"""Of letters that are written in several ways: whoever prints it in any of those has told it."""
PLAIN = "patient-zero-4711"
"""For headers, paths and methods, which are ASCII."""

SPELLINGS = (
    MARKER,
    MARKER.encode("unicode_escape").decode(),
    MARKER.encode().decode("latin-1"),
    str(MARKER.encode())[2:-1],
    base64.b64encode(MARKER.encode()).decode().rstrip("="),
    PLAIN,
    str(list(PLAIN.encode()))[1:-1],
)


def user(content: Any) -> Json:
    return {"role": "user", "content": content}


def chat(**fields: Any) -> Json:
    return {"messages": [user(MARKER)], "max_tokens": 1, **fields}


PIXEL = "data:image/png;base64," + base64.b64encode(MARKER.encode()).decode()


def tool(name: str) -> Json:
    schema = {"type": "object", "properties": {MARKER: {"type": "string", "enum": [MARKER]}}}
    return {"type": "function", "function": {"name": name, "description": MARKER, "parameters": schema}}


# Fields of a chat, each with a value that is taken and one that is refused somewhere on the way.
FIELDS: dict[str, list[Any]] = {
    "model": [MARKER],
    "user": [MARKER],
    "metadata": [{MARKER: MARKER}],
    "unknown": [MARKER],
    MARKER: [MARKER],
    "stop": [[MARKER], {MARKER: 1}],
    "temperature": [MARKER, {"a": MARKER}],
    "max_tokens": [MARKER, 10**40],
    "seed": [MARKER],
    "logit_bias": [{MARKER: 1}, {MARKER: MARKER}],
    "bad_words": [[MARKER], [[MARKER]]],
    "tools": [[tool("f")], [tool(MARKER)], [{MARKER: MARKER}], MARKER],
    "tool_choice": [MARKER, {"type": "function", "function": {"name": MARKER}}, {MARKER: MARKER}],
    "response_format": [
        {"type": MARKER},
        {"type": "json_schema", "json_schema": {"name": MARKER, "schema": {"type": MARKER}}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": MARKER}}},
        MARKER,
    ],
    "structured_outputs": [{"regex": f"({MARKER}"}, {"grammar": MARKER}, {MARKER: MARKER}],
    "guided_json": [{"type": MARKER}, MARKER],
    "guided_regex": [f"({MARKER}"],
    "guided_choice": [[MARKER], MARKER],
    "guided_grammar": [MARKER],
    "chat_template_kwargs": [{MARKER: MARKER}, {"messages": MARKER, "tools": MARKER}, MARKER],
    "stream_options": [{MARKER: MARKER}, MARKER],
    "reasoning_effort": [MARKER],
    "logprobs": [MARKER],
}

MESSAGES: list[Any] = [
    [{"role": "system", "content": MARKER}, user(MARKER)],
    [{"role": MARKER, "content": MARKER}],
    [{"role": "user", "content": MARKER, "name": MARKER, MARKER: MARKER}],
    [user([{"type": "text", "text": MARKER}])],
    [user([{"type": MARKER, MARKER: MARKER}])],
    [user([{"type": "image_url", "image_url": {"url": PIXEL}}])],
    [user([{"type": "image_url", "image_url": {"url": f"http://{PLAIN}.invalid/{PLAIN}"}}])],
    [user({MARKER: MARKER})],
    [user(MARKER), {"role": "assistant", "tool_calls": [{"id": MARKER, "function": {"name": MARKER}}]}],
    [{"role": "tool", "tool_call_id": MARKER, "content": MARKER}],
    [MARKER],
    MARKER,
    {MARKER: MARKER},
]


def posts() -> Iterator[tuple[str, Json]]:
    for stream in (False, True):
        yield CHAT, chat(stream=stream)
        yield COMPLETIONS, {"prompt": MARKER, "max_tokens": 1, "stream": stream}
        yield "/chat", {"message": MARKER, "system": MARKER, "max_tokens": 1, "stream": stream}
    for field, values in FIELDS.items():
        for value in values:
            yield CHAT, chat(**{field: value})
    for messages in MESSAGES:
        yield CHAT, {"messages": messages, "max_tokens": 1}
        yield "/chat", {"messages": messages, "max_tokens": 1}
    yield "/chat", {"prompt": MARKER, "system_prompt": MARKER, "max_tokens": 1}
    yield "/chat", {"message": {MARKER: MARKER}}
    yield COMPLETIONS, {"prompt": [MARKER, MARKER], "max_tokens": 1}
    yield COMPLETIONS, {"prompt": {MARKER: MARKER}}
    yield COMPLETIONS, {"prompt": MARKER, "suffix": MARKER, "echo": MARKER}
    yield "/v1/embeddings", {"input": MARKER}
    yield f"/{PLAIN}", chat()
    yield f"/v1/models/{PLAIN}", {}


RAW_BODIES = (
    f'{{"messages": [{{"role": "user", "content": "{MARKER}'.encode(),
    f'{{"messages": "{MARKER}'.encode() + b"\xff\xfe",
    f"[{MARKER}]".encode(),
    b'{"messages": [{"role": "user", "content": "\\ud800 ' + MARKER.encode() + b'"}]}',
    b"[" * 5000 + MARKER.encode(),
)

HEADERS: tuple[dict[str, str], ...] = (
    {"Authorization": f"Bearer {PLAIN}"},
    {"Authorization": PLAIN},
    {"Authorization": f"Bearer {PLAIN}, Bearer {PLAIN}-2"},
    {"x-request-id": f"not good: {PLAIN}"},
    {"Cookie": f"{PLAIN}={PLAIN}; \x01{PLAIN}"},
    {"Content-Type": f"{PLAIN}/{PLAIN}; charset={PLAIN}"},
    {"Content-Encoding": PLAIN},
    {"User-Agent": PLAIN, "Referer": f"http://{PLAIN}/", "X-Forwarded-For": PLAIN, "Origin": PLAIN},
    {"Expect": PLAIN},
    {"Accept": PLAIN, "Range": PLAIN, "If-None-Match": PLAIN},
)


def malformed(key: str) -> Iterator[bytes]:
    """What is no sound HTTP, as bytes of a connection that is then closed."""
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n".encode()
    secret = PLAIN.encode()
    yield secret + b"\r\n\r\n"
    yield secret + b" / HTTP/1.1\r\n\r\n"
    yield b"GET /" + secret + b" with spaces HTTP/1.1\r\n\r\n"
    yield b"GET / HTTP/" + secret + b"\r\n\r\n"
    yield b"GET /?q=%zz" + secret + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    yield b"GET http://" + secret + b":99999/ HTTP/1.1\r\nHost: x\r\n\r\n"
    yield b"GET / HTTP/1.1\r\n" + secret + b"\r\n\r\n"
    yield b"GET / HTTP/1.1\r\nHost: x\r\n" + secret + b" : y\r\n\r\n"
    yield b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00" + secret + b"\r\n\r\n"
    yield b"GET / HTTP/1.1\r\nHost: x\r\nA: " + secret * 2000 + b"\r\n\r\n"
    yield b"GET /" + secret * 2000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    yield head + b"Content-Length: " + secret + b"\r\n\r\n"
    yield head + b"Transfer-Encoding: " + secret + b"\r\n\r\n"
    yield head + b"Transfer-Encoding: chunked\r\n\r\n" + secret + b"\r\n"
    yield head + b"Content-Encoding: gzip\r\nContent-Length: 17\r\n\r\n" + secret
    yield head + b'Content-Length: 900\r\n\r\n{"messages": "' + secret
    yield head + b"Upgrade: " + secret + b"\r\nConnection: Upgrade\r\n\r\n"
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + secret
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + secret


def send_malformed(connect: Callable[[], socket.socket], key: str) -> None:
    for sent in malformed(key):
        with connect() as connection:
            connection.settimeout(5)
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while _received(connection):
                pass


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except (ConnectionResetError, TimeoutError):
        return b""


def told(text: str) -> list[str]:
    """The spellings of the markers that are in `text`."""
    return [spelling for spelling in SPELLINGS if spelling.lower() in text.lower()]
