"""Conversations, arrivals and rewriting, against a server that says what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.measuring.load import Request, Target
from bench.worker import arrival, conversation, rewrite
from bench.worker.arrival import Arrival, Seen, arrive
from bench.worker.conversation import Conversations, Person, converse
from bench.worker.dialogues import REQUESTS
from bench.worker.rewrite import Rewriting
from tests.bench.fake_server import FakeServer

Serve = Callable[[web.Application], Awaitable[TestServer]]


async def target_of(app: web.Application, serve: Serve) -> Target:
    return Target("fake", str((await serve(app)).make_url("/")), "tiny")


async def test_a_turn_holds_the_whole_conversation_so_far(aiohttp_server: Serve) -> None:
    fake = FakeServer()
    plan = Conversations(people=3, at_once=2, turns=3, max_tokens=2)
    people = await converse(await target_of(fake.app(), aiohttp_server), plan)
    assert [len(person.turns) for person in people] == [3, 3, 3]
    assert not any(person.has_failed for person in people)
    roles = ["system", "user", "assistant", "user", "assistant", "user"]
    last = [body["messages"] for body in fake.bodies if len(body["messages"]) == 6]
    assert [[message["role"] for message in messages] for messages in last] == [roles] * 3
    assert last[0][2]["content"] == "wordword"
    assert len({messages[0]["content"] for messages in last}) == 3


async def test_everybody_has_had_a_turn_before_anybody_has_the_next(aiohttp_server: Serve) -> None:
    fake = FakeServer()
    await converse(
        await target_of(fake.app(), aiohttp_server), Conversations(people=4, at_once=1, turns=2, max_tokens=1)
    )
    assert [len(body["messages"]) for body in fake.bodies] == [2] * 4 + [4] * 4


async def test_whoever_is_not_answered_says_no_more(aiohttp_server: Serve) -> None:
    plan = Conversations(people=2, at_once=2, turns=3, max_tokens=2)
    people = await converse(await target_of(FakeServer(status=503).app(), aiohttp_server), plan)
    assert [len(person.turns) for person in people] == [1, 1]
    assert conversation.figures(people) == {"errors": 2.0}


def turn(sent_s: float, first_s: float, prompt: int, cached: int, generated: int) -> Request:
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    return Request(sent_s=sent_s, end_s=first_s + 1, chunk_s=[first_s], usage=usage)


def test_recomputed_tokens_are_those_beyond_what_is_new() -> None:
    """The second turn adds 20 tokens to 109 known ones, of which 89 are reused; the third reuses all it can."""
    turns = [turn(0, 1, 100, 0, 10), turn(2, 2.5, 129, 89, 10), turn(4, 4.25, 158, 138, 10)]
    figures = conversation.figures([Person(0, [], turns)])
    assert (figures["new tok"], figures["recomputed tok"]) == (40, 20)
    assert (figures["TTFT of the first turn p50 s"], figures["TTFT of later turns p50 s"]) == (1, 0.375)
    assert figures["TTFT of turn 3 p50 s"] == 0.25
    assert figures["turns/s"] == pytest.approx(3 / 5.25)


@dataclass
class LongPromptServer:
    """Streams go on until their client leaves; the long prompt's begins when each of the others has had more."""

    long: asyncio.Event = field(default_factory=asyncio.Event)
    left: list[int] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    ends_after: int | None = None

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/completions", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        answer = web.StreamResponse()
        await answer.prepare(request)
        async for event in self._events(is_long=len(body["prompt"].split()) > 100):
            await answer.write(b"data: " + orjson.dumps(event) + b"\n\n")
        return answer

    async def _events(self, *, is_long: bool) -> AsyncIterator[dict[str, Any]]:
        word = {"choices": [{"index": 0, "text": "word", "finish_reason": None}]}
        if is_long:
            self.long.set()
            yield word
            return
        for _ in range(3):
            yield word
        if self.ends_after is None:
            await self.long.wait()
            for _ in range(3):
                yield word
            await asyncio.Event().wait()


async def test_the_long_prompt_comes_when_all_streams_run_and_ends_them(aiohttp_server: Serve) -> None:
    server = LongPromptServer()
    target = await target_of(server.app(), aiohttp_server)
    async with asyncio.timeout(10):
        seen = await arrive(target, Arrival(streams=2, n_prompt=10, n_long=200, warm_chunks=3, timeout_s=5))
    assert len(seen.long.chunk_s) == 1
    assert all(request.chunk_s[2] <= seen.long.sent_s for request in seen.running)
    assert arrival.figures(seen)["errors"] == 0
    assert len(server.bodies) == 3


async def test_a_stream_that_ends_too_early_is_an_error(aiohttp_server: Serve) -> None:
    target = await target_of(LongPromptServer(ends_after=3).app(), aiohttp_server)
    async with asyncio.timeout(10):
        seen = await arrive(target, Arrival(streams=2, n_prompt=10, n_long=200, warm_chunks=3, timeout_s=5))
    assert arrival.figures(seen) == {"errors": 2.0}


def test_a_gap_counts_for_the_arrival_if_any_of_it_lies_there() -> None:
    running = Request(sent_s=0, chunk_s=[1.0, 2.0, 4.5, 5.5, 6.0, 7.0])
    figures = arrival.figures(Seen([running], Request(sent_s=3.0, chunk_s=[5.6])))
    assert figures["gap at arrival max ms"] == figures["gap max ms"] == 2500
    assert figures["gap at arrival p50 ms"] == 1000
    assert figures["gap p50 ms"] == 1000
    assert figures["TTFT of the long prompt s"] == pytest.approx(2.6)


async def test_records_are_asked_for_in_each_language_and_texts_compared(aiohttp_server: Serve) -> None:
    fake = FakeServer()
    target = await target_of(fake.app(), aiohttp_server)
    plan = Rewriting(streams=2, n_records=3, max_tokens=4)
    requests = await rewrite.rewrite(target, plan)
    asked = {body["messages"][0]["content"] for body in fake.bodies}
    assert len(asked) == 6
    assert {text.split(":")[0].split("：")[0] for text in asked} == {line.strip(":：") for line in REQUESTS}
    assert [request.text for request in requests] == ["wordwordwordword"] * 6
    other = [Request(sent_s=0, pieces=["other"]), *requests[1:]]
    figures = rewrite.figures(requests, plan, other)
    assert (figures["texts equal"], figures["errors"]) == (5 / 6, 0)
    assert figures["decode tok/s"] > figures["tok/s"] > 0
