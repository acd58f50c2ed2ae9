from __future__ import annotations

import asyncio
from itertools import pairwise

import aiohttp
import orjson
import pytest

from bench.measuring.ask import words_of
from bench.measuring.load import Target, Workload, first_model, run_load
from bench.servers.story import text
from bench.upstream import Pace, in_groups


@pytest.mark.parametrize("chat", [False, True])
async def test_a_stream_has_as_many_chunks_as_tokens_were_asked_for_and_its_usage(url: str, chat: bool) -> None:
    workload = Workload(streams=3, requests_per_stream=2, max_tokens=25, chat=chat)
    requests = await run_load(Target("upstream", url, "fake"), workload)
    assert [(request.error, len(request.chunk_s), request.finish_reason) for request in requests] == [
        (None, 25, "length")
    ] * 6
    assert all(
        request.usage == {"prompt_tokens": 20, "completion_tokens": 25, "total_tokens": 45} for request in requests
    )


async def test_a_stream_says_the_text_and_no_usage_unless_asked(url: str) -> None:
    body = {"max_tokens": 12, "stream": True, "messages": []}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/chat/completions", json=body) as answer:
        data = await answer.read()
    assert answer.content_type == "text/event-stream"
    assert "".join(words_of(data)) == text(12) == "Once upon a time, in some far off landOnce upon"
    assert data.endswith(b"\n\ndata: [DONE]\n\n")
    assert b'"usage"' not in data


async def test_a_reader_that_stops_for_a_while_misses_nothing(url: str) -> None:
    """More than the sockets and both sides' buffers hold."""
    body = {"max_tokens": 40_000, "stream": True, "messages": []}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/chat/completions", json=body) as answer:
        assert await first_model(Target("upstream", url, "fake")) == "fake"
        assert len(words_of(await answer.read())) == 40_000


async def test_whole_answers_are_in_the_shape_of_their_endpoint(url: str) -> None:
    async with aiohttp.ClientSession(url) as session:
        async with session.post("/v1/chat/completions", json={"max_completion_tokens": 3}) as answer:
            chat = await answer.json()
        async with session.post("/v1/completions", json={"max_tokens": 3}) as answer:
            completion = await answer.json()
    assert chat["choices"][0]["message"]["content"] == completion["choices"][0]["text"] == text(3)
    assert chat["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/health", b"", 200),
        ("POST", "/tokenize", b"{}", 200),
        ("GET", "/nothing", b"", 404),
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/pace", b"{}", 400),
    ],
)
async def test_other_requests_have_their_status(url: str, method: str, path: str, body: bytes, status: int) -> None:
    async with aiohttp.ClientSession(url) as session, session.request(method, path, data=body) as answer:
        assert answer.status == status
        if path == "/tokenize":
            assert (await answer.json())["count"] == 20


async def test_requests_that_come_together_are_answered_after_each_other(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = orjson.dumps({"max_tokens": 2, "stream": True})
    asked = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    writer.write(asked + asked + b"GET /health HTTP/1.1\r\n\r\n")
    told = await reader.readuntil(b"content-length: 0\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert told.count(b"HTTP/1.1 200 OK") == 3
    assert told.count(b"data: [DONE]\n\n\r\n0\r\n\r\n") == 2


def test_streams_in_step_share_their_moments_and_others_do_not() -> None:
    in_step = Pace(interval_s=0.5)
    assert [in_step.first_due_s(now_s) for now_s in (10.0, 10.2, 10.4, 10.6)] == [10.5, 10.5, 10.5, 11.0]
    apart = Pace(interval_s=1.0, in_step=False)
    due_s = sorted(apart.first_due_s(10.25) for _ in range(8))
    assert min(later - earlier for earlier, later in pairwise(due_s)) > 0.05
    assert due_s[0] >= 11.0
    assert due_s[-1] < 12.0
    assert Pace().first_due_s(10.25) == 10.25


def test_several_chunks_can_go_into_one_write() -> None:
    assert list(in_groups([b"a", b"b", b"c", b"d", b"e"], 2)) == [b"ab", b"cd", b"e"]
