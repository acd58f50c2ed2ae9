"""A client as people write it with `requests`, and what is in the answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import requests

from tests.e2e.program import KEY

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MODELS = "/v1/models"
DONE = "[DONE]"

Json = dict[str, Any]


class Client:
    """Somebody with a key, or with none."""

    def __init__(self, base_url: str, key: str | None = KEY) -> None:
        self.base_url = base_url
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def get(self, path: str = "", **options: Any) -> requests.Response:
        return self._send("GET", path, **options)

    def post(self, path: str, body: Any = None, *, raw: bytes | None = None, **options: Any) -> requests.Response:
        data = json.dumps(body).encode() if raw is None else raw
        return self._send("POST", path, data=data, **options)

    @contextmanager
    def stream(self, path: str, body: Json) -> Iterator[tuple[requests.Response, Iterator[str]]]:
        """The answer once its headers are there, and the data of its events as they come."""
        with self.post(path, body, stream=True) as response:
            yield response, events(response)

    def streamed(self, path: str, body: Json) -> list[str]:
        """The data of every event of an answer that has to be a stream."""
        with self.stream(path, body) as (response, found):
            assert response.status_code == 200, response.text
            assert response.headers["Content-Type"].startswith("text/event-stream")
            return list(found)

    def _send(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **options: Any
    ) -> requests.Response:
        headers = {**self.headers, **(headers or {})}
        return requests.request(method, self.base_url + path, headers=headers, timeout=60, **options)


def events(response: requests.Response) -> Iterator[str]:
    """Each event has to be whole characters by itself."""
    for line in response.iter_lines():
        if line.startswith(b"data: "):
            yield line.removeprefix(b"data: ").decode()


def user(content: Any) -> Json:
    return {"role": "user", "content": content}


def chat(content: Any = "Hello", **fields: Any) -> Json:
    """A short conversation; few tokens unless `fields` say otherwise."""
    return {"messages": [user(content)], "max_tokens": 6, **fields}


def endless(**fields: Any) -> Json:
    """A conversation whose answer goes on to `max_tokens`, which is many."""
    return chat("Tell me a story", **{"max_tokens": 4000, "ignore_eos": True, **fields})


def chunks(found: Iterable[str]) -> list[Json]:
    """The events of a stream that ended as it should."""
    *data, last = found
    assert last == DONE
    return [json.loads(text) for text in data]


def content_of(found: Iterable[Json]) -> str:
    deltas = (choice["delta"] for chunk in found for choice in chunk["choices"])
    return "".join(delta.get("content") or "" for delta in deltas)


def error_of(response: requests.Response, status: int) -> Json:
    """The error of an answer, which has the one shape that errors have."""
    assert response.status_code == status, response.text
    return checked_error(response.json())


def checked_error(body: Json) -> Json:
    assert set(body) == {"error"}
    error: Json = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"]
    return error
