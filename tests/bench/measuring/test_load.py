from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from itertools import count, pairwise
from json import dumps
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from bench.measuring import load as load_module
from bench.measuring.figures import LatencyTarget, figures
from bench.measuring.load import Request, Target, Workload, first_model, run_load, shortfall
from bench.measuring.result import percentile, summarise
from bench.workloads.prompts import prompt, shared_prompt
from tests.bench.fake_server import FakeServer

Start = Callable[[FakeServer], Awaitable[Target]]
WORKLOAD = Workload(streams=1, requests_per_stream=1, max_tokens=4, n_prompt=20, timeout_s=30)


class Ticks:
    """A clock on which a second passes with each look."""

    def __init__(self) -> None:
        self._ticks = count()

    def __call__(self) -> float:
        return float(next(self._ticks))


@pytest.fixture
def start(aiohttp_server: Callable[[web.Application], Awaitable[TestServer]]) -> Start:
    async def start_server(fake: FakeServer) -> Target:
        server = await aiohttp_server(fake.app())
        return Target("fake", str(server.make_url("/")), "tiny", key="secret", extra_fields={"ignore_eos": True})

    return start_server


@pytest.mark.parametrize("chat", [False, True])
async def test_times_are_those_of_chunks_with_text(start: Start, chat: bool) -> None:
    workload = replace(WORKLOAD, chat=chat)
    [request] = await run_load(await start(FakeServer()), workload, Ticks())
    assert request.error is None
    assert (request.sent_s, request.ttft_s, request.gaps_s, request.end_s) == (0, 1, [1, 1, 1], 5)
    result = summarise([request], workload)
    assert (result.output_tokens, result.chunks, result.wall_s, result.tokens_per_s) == (4, 4, 5, 0.8)
    assert (result.prompt_tokens, result.cached_tokens) == (20, 3)


async def test_streams_run_at_the_same_time_and_requests_of_a_stream_after_each_other(start: Start) -> None:
    fake = FakeServer(together=3)
    workload = replace(WORKLOAD, streams=3, requests_per_stream=2)
    requests = await run_load(await start(fake), workload, Ticks())
    assert [request.error for request in requests] == [None] * 6
    assert all(requests[i].end_s < requests[i + 1].sent_s for i in (0, 2, 4))
    assert len({body["prompt"].split()[0] for body in fake.bodies}) == 6


async def test_a_request_carries_the_key_the_model_and_the_fields_of_its_target(start: Start) -> None:
    fake = FakeServer()
    await run_load(await start(fake), replace(WORKLOAD, chat=True, n_shared=12))
    [body], [headers] = fake.bodies, fake.headers
    assert headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"], body["ignore_eos"], body["max_tokens"]) == ("tiny", 0, True, 4)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["messages"][0]["content"] == shared_prompt(12)


async def test_without_usage_the_end_by_length_counts_every_token(start: Start) -> None:
    [request] = await run_load(await start(FakeServer(says_usage=False)), WORKLOAD)
    assert (request.error, request.usage, request.output_tokens(4)) == (None, None, 4)


@pytest.mark.parametrize(
    ("fake", "error"),
    [
        (FakeServer(status=429), "HTTP 429: no room"),
        (FakeServer(ends_after=2), "2 tokens instead of 4, finish_reason stop"),
        (FakeServer(ends_after=2, says_usage=False), "2 tokens instead of 4, finish_reason stop"),
        (FakeServer(ends_after=0), "0 tokens instead of 4, finish_reason stop"),
        (FakeServer(breaks_after=2), "Client"),
        (FakeServer(fails_after=2), "in the stream: {'message': 'engine died'}"),
        (FakeServer(is_stuck=True), "no end after 0.2 s"),
        (FakeServer(says_bytes=b"data: {broken\n\n"), "JSONDecodeError"),
        (FakeServer(says_bytes=b"data: [1]\n\n"), "ValueError: an event that is not a completion's"),
        (FakeServer(says_bytes=b'data: {"choices": [7]}\n\n'), "ValueError: an event that is not a completion's"),
        (FakeServer(says_bytes=b'data: {"choices": [{"text": {}}]}\n\n'), "0 tokens instead of 4"),
        (FakeServer(says_bytes=b'data: {"choices": [{"text": [1]}]}\n\n'), "ValueError: an event that is not"),
        (FakeServer(says_bytes=b'data: {"usage": {"prompt_tokens": 1}}\n\n'), "ValueError: usage without"),
        (FakeServer(says_bytes=b'data: {"usage": 7}\n\n'), "ValueError: an event that is not a completion's"),
        (FakeServer(says_bytes=b""), "0 tokens instead of 4, finish_reason None"),
    ],
)
async def test_what_goes_wrong_is_an_error_and_no_figure(start: Start, fake: FakeServer, error: str) -> None:
    workload = replace(WORKLOAD, timeout_s=0.2 if fake.is_stuck else 30)
    result = summarise(await run_load(await start(fake), workload, Ticks()), workload)
    assert [text.startswith(error) for text in result.errors] == [True]
    assert (result.requests, result.output_tokens, result.tokens_per_s, result.ttft_p50_s) == (1, 0, 0, 0)


class Pieces:
    """A body as a network cuts it."""

    def __init__(self, body: bytes, cuts: list[int]) -> None:
        places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
        self._pieces = [body[start:end] for start, end in pairwise(places)]

    async def iter_any(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


@given(st.lists(st.integers(0, 1000), max_size=20))
async def test_events_are_the_same_wherever_the_network_cuts_them(cuts: list[int]) -> None:
    body = 'data: {"a": "ấ𝄞"}\r\n\r\n: keep-alive\n\nevent: x\ndata:{"b": 2}\n\ndata: [DONE]\n\n'.encode()
    content: Any = Pieces(body, cuts)
    assert [event async for event in load_module._events(content)] == [{"a": "ấ𝄞"}, {"b": 2}]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "text", "content", "usage", "prompt_tokens", "completion_tokens",
                             "prompt_tokens_details", "cached_tokens", "total_tokens", "finish_reason", "error"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)  # fmt: skip


@given(st.lists(JSON, max_size=4))
async def test_whatever_a_server_sends_is_an_answer_or_an_error(events: list[Any]) -> None:
    request, content = (
        Request(sent_s=0.0),
        Pieces(b"".join(b"data: %b\n" % dumps(event).encode() for event in events), []),
    )
    stands_in: Any = content
    try:
        await load_module._note_all(stands_in, request, Ticks())
    except ValueError as error:
        request.fail("malformed", str(error))
    request.end_s = 100.0
    request.error = request.error or shortfall(request, 1)
    assert figures([request], 1, LatencyTarget())["requests"] == 1


async def test_a_line_without_end_is_not_waited_for(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "_MAX_LINE_BYTES", 1000)
    [request] = await run_load(await start(FakeServer(says_bytes=b"data: " + b"x" * 2000)), WORKLOAD)
    assert (request.error_kind, request.chunk_s) == ("malformed", [])


async def test_a_server_that_is_not_there_is_an_error() -> None:
    [request] = await run_load(Target("gone", "unix:nowhere.sock", "tiny"), WORKLOAD)
    assert request.error is not None
    assert request.error.startswith("UnixClientConnectorError")


async def test_a_load_runs_over_a_unix_socket(tmp_path: Path) -> None:
    runner = web.AppRunner(FakeServer().app())
    await runner.setup()
    try:
        await web.UnixSite(runner, str(tmp_path / "server.sock")).start()
        target = Target("fake", f"unix:{tmp_path}/server.sock", "tiny")
        [request] = await run_load(target, WORKLOAD)
        assert (request.error, await first_model(target)) == (None, "first")
    finally:
        await runner.cleanup()


def test_a_result_spans_first_send_to_last_byte_and_pools_gaps() -> None:
    workload = replace(WORKLOAD, max_tokens=3)
    requests = [
        Request(sent_s=10.0, end_s=14.0, chunk_s=[11.0, 12.0, 14.0], finish_reason="length"),
        Request(sent_s=10.5, end_s=18.0, chunk_s=[13.5, 14.5, 17.5], finish_reason="length"),
        Request(sent_s=10.5, end_s=20.0, chunk_s=[12.0], error="broken"),
    ]
    result = summarise(requests, workload)
    assert (result.wall_s, result.output_tokens, result.tokens_per_s) == (10.0, 6, 0.6)
    assert (result.ttft_p50_s, result.gap_p50_s) == (2.0, 1.5)
    assert result.gap_p95_s == pytest.approx(2.85)
    assert result.errors == ("broken",)


def test_percentiles_lie_between_the_nearest_ranks() -> None:
    assert percentile([], 50) == 0
    assert percentile([7.0], 95) == 7
    assert percentile([3.0, 1.0, 2.0], 50) == 2
    assert percentile([0.0, 1.0, 2.0, 3.0], 95) == pytest.approx(2.85)


def test_prompts_depend_on_seed_and_index_alone_and_begin_with_different_words() -> None:
    prompts = [prompt("1/16/0", index, 119) for index in range(32)]
    assert prompts == [prompt("1/16/0", index, 119) for index in range(32)]
    assert len({text.split()[0] for text in prompts}) == 32
    assert not set(prompts) & {prompt("1/16/1", index, 119) for index in range(32)}
