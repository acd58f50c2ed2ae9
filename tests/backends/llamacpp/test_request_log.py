"""The worker by itself: a line for each request, by its name, and nothing of what was asked."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import suppress

import aiohttp
import pytest

from tests.backends.llamacpp.worker import Worker, started, until, user
from tests.marked import CHAT, HEADERS, MARKER, PLAIN, RAW_BODIES, chat, posts, send_malformed, told

KEY = "the-workers-key"
NAMES = {"x-request-id": "named-1"}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with started("--n-ctx", "512", api_key=KEY) as worker:
        yield worker


def lines(worker: Worker) -> list[dict[str, object]]:
    """What it logged of requests."""
    said = [line for line in worker.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in map(json.loads, said) if line["event"] == "request"]


async def line_of(worker: Worker, name: str) -> dict[str, object]:
    async def is_there() -> bool:
        return any(line["request_id"] == name for line in lines(worker))

    await until(is_there)
    return next(line for line in lines(worker) if line["request_id"] == name)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_carries_the_name_that_its_line_has(worker: Worker, stream: bool) -> None:
    name = f"named-{stream}"
    async with (
        worker.client() as client,
        client.session.post(CHAT, json=chat(stream=stream, max_tokens=2), headers={"x-request-id": name}) as answer,
    ):
        await answer.read()
        assert answer.headers["x-request-id"] == name
    line = await line_of(worker, name)
    assert (line["method"], line["path"], line["status"]) == ("POST", CHAT, 200)


async def test_a_name_that_is_not_sound_is_replaced(worker: Worker) -> None:
    async with (
        worker.client() as client,
        client.session.get("/v1/models", headers={"x-request-id": f"{PLAIN} two"}) as answer,
    ):
        assert (await line_of(worker, answer.headers["x-request-id"]))["path"] == "/v1/models"


async def test_what_is_asked_every_few_seconds_has_no_line(worker: Worker) -> None:
    async with worker.client() as client:
        await client.get("/health")
        await client.metrics()
        await client.session.get("/v1/models", headers={"x-request-id": "after-1"})
    await line_of(worker, "after-1")
    assert not [line for line in lines(worker) if line["path"] in ("/health", "/metrics")]


async def test_nothing_of_a_request_is_printed(worker: Worker) -> None:
    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(worker.socket))
        return connection

    async with worker.client() as client:
        session = client.session
        for path, body in posts():
            async with session.post(path, json=body) as answer:
                await answer.read()
        for path in ("/tokenize", "/detokenize"):
            for body in (chat(), {"prompt": MARKER}, {"prompt": {MARKER: 1}}, {"tokens": [MARKER]}, {"tokens": [-5]}):
                async with session.post(path, json=body) as answer:
                    await answer.read()
        for raw in RAW_BODIES:
            async with session.post(CHAT, data=raw) as answer:
                await answer.read()
        for headers in HEADERS:
            with suppress(aiohttp.ClientError, ValueError):
                async with session.post(f"{CHAT}?{PLAIN}", json=chat(max_tokens=1), headers=headers) as answer:
                    await answer.read()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.chat(MARKER, max_tokens=400, ignore_eos=True, messages=[user(MARKER)])
        await asyncio.to_thread(send_malformed, connect, KEY)
        await session.get("/v1/models", headers={"x-request-id": "last-1"})
    await line_of(worker, "last-1")
    printed = worker.log.read_text()
    assert not told(printed)
    assert KEY not in printed
    assert "unexpected error" not in printed
