"""What a client meets that has limits: at the gateway, with a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gguf_server import keys
from gguf_server.limits.limiter import Limiter
from gguf_server.limits.policy import NO_LIMITS, KeyLimits, Priority
from tests.gguf_server.gateway import LIMIT_S, Gateway, Reply
from tests.gguf_server.limits.clock import Clock
from tests.gguf_server.limits.quick_gateway import engine, quick_gateway

N_TOKENS = 8
"""Of the fake engine's answer: 1 of the prompt, 7 of the answer."""
SLOW = ("--answer-words", "2000", "--token-s", "0.002")
HEADERS = tuple(
    f"x-ratelimit-{what}-{kind}" for kind in ("requests", "tokens") for what in ("limit", "remaining", "reset")
)


@asynccontextmanager
async def limited(
    own: KeyLimits = NO_LIMITS, defaults: KeyLimits = NO_LIMITS, *flags: str, **settings: Any
) -> AsyncIterator[tuple[Gateway, Clock]]:
    """A gateway as a key with these limits uses it."""
    clock = Clock()
    async with engine(*flags) as url, quick_gateway(url, Limiter(defaults, now_s=clock), **settings) as everybody:
        _, token = keys.create(everybody.keys_file, "limited", own)
        async with everybody.using(token) as client:
            yield client, clock


def told(reply: Reply) -> tuple[str | None, ...]:
    return tuple(reply.headers.get(name) for name in HEADERS)


async def test_requests_over_the_limit_are_told_exactly_when_to_come_again() -> None:
    async with limited(KeyLimits(requests_per_minute=2)) as (client, clock):
        first = await client.ask()
        assert (first.status, told(first)) == (200, ("2", "1", "1m1s", None, None, None))
        clock.now_s += 10
        assert (await client.ask()).headers["x-ratelimit-remaining-requests"] == "0"
        refused = await client.ask()
        assert refused.status == 429
        assert refused.error is not None
        assert (refused.error["type"], refused.error["code"]) == ("requests", "rate_limit_exceeded")
        assert refused.headers["retry-after"] == "51"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        clock.now_s += 50
        assert (await client.ask()).headers["retry-after"] == "1"
        clock.now_s += 1
        assert (await client.ask()).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_are_held_at_first_and_put_right_at_the_end(stream: bool) -> None:
    async with limited(KeyLimits(tokens_per_minute=1000)) as (client, _):
        reply = await client.ask(max_tokens=500, stream=stream)
        assert reply.status == 200
        left = int(reply.headers["x-ratelimit-remaining-tokens"])
        assert left < 500 if stream else left == 1000 - N_TOKENS  # a stream's headers leave before its first word
        again = await client.ask(max_tokens=500)
        assert again.headers["x-ratelimit-remaining-tokens"] == str(1000 - 2 * N_TOKENS)
        assert again.headers["x-ratelimit-limit-tokens"] == "1000"


async def test_a_request_that_would_go_over_the_limit_of_tokens_waits_for_its_minute() -> None:
    async with limited(KeyLimits(tokens_per_minute=600, requests_per_minute=50)) as (client, clock):
        assert (await client.ask(max_tokens=5)).status == 200
        refused = await client.ask(max_tokens=600)
        assert refused.error is not None
        assert (refused.status, refused.error["type"]) == (429, "tokens")
        assert refused.headers["retry-after"] == "61"
        assert refused.headers["x-should-retry"] == "false"
        assert refused.headers["x-ratelimit-remaining-requests"] == "49"  # what was refused is not counted
        assert (await client.ask(max_tokens=100)).status == 200
        clock.now_s += 61
        assert (await client.ask(max_tokens=600)).status == 200


async def test_a_days_limit_ends_at_midnight_and_the_nearest_limit_is_told() -> None:
    async with limited(KeyLimits(requests_per_minute=10, requests_per_day=2)) as (client, clock):
        assert told(await client.ask())[:3] == ("2", "1", "12h0m0s")
        clock.now_s += 3600
        assert (await client.ask()).status == 200
        refused = await client.ask()
        assert (refused.status, refused.headers["retry-after"]) == (429, str(11 * 3600))
        clock.now_s += 11 * 3600
        assert (await client.ask()).status == 200


async def test_whoever_has_no_limits_is_told_of_none() -> None:
    async with limited(KeyLimits(priority=Priority.HIGH, max_concurrent=3)) as (client, _):
        assert set(told(await client.ask())) == {None}


async def test_refusals_and_other_answers_carry_the_headers_too() -> None:
    async with limited(KeyLimits(requests_per_minute=5)) as (client, _):
        await client.ask()
        wrong = await client.ask(max_tokens="many")
        async with client.session.get(f"{client.url}/v1/models") as models:
            assert (wrong.status, models.status) == (422, 200)
            assert wrong.headers["x-ratelimit-remaining-requests"] == "4"
            assert models.headers["x-ratelimit-remaining-requests"] == "4"


async def test_a_key_says_no_to_a_default_and_others_have_it() -> None:
    defaults = KeyLimits(requests_per_minute=1, max_tokens=3)
    async with limited(KeyLimits(requests_per_minute=0), defaults) as (client, _):
        assert {(await client.ask()).status for _ in range(3)} == {200}
        assert (await client.ask(max_tokens=4)).status == 400
        _, other = keys.create(client.keys_file, "other")
        async with client.using(other) as second:
            assert [(await second.ask()).status for _ in range(2)] == [200, 429]


async def test_changed_limits_hold_from_the_next_request() -> None:
    async with limited(KeyLimits(requests_per_minute=1)) as (client, _):
        assert [(await client.ask()).status for _ in range(2)] == [200, 429]
        keys.set_limits(client.keys_file, "limited", lambda _: KeyLimits(requests_per_minute=3))
        assert [(await client.ask()).status for _ in range(3)] == [200, 200, 429]
        keys.set_limits(client.keys_file, "limited", lambda _: NO_LIMITS)
        assert (await client.ask()).status == 200


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/fake", "/status", "/"])
async def test_a_service_that_is_not_allowed_answers_403_everywhere(path: str) -> None:
    async with limited(KeyLimits(services=("other",))) as (client, _):
        status, body = await client.get(path)
        assert status == 403
        assert body["error"]["type"] == "permission_error"
        assert body["error"]["code"] == "service_not_allowed"
        assert (await client.ask()).status == 403


async def test_an_expired_key_is_told_that_it_has_expired() -> None:
    async with limited(KeyLimits(expires="2020-01-01T00:00:00+00:00")) as (client, _):
        reply = await client.ask()
        assert reply.status == 401
        assert reply.error is not None
        assert reply.error["code"] == "key_expired"
        assert reply.headers["www-authenticate"] == "Bearer"
        keys.set_limits(client.keys_file, "limited", lambda _: KeyLimits(expires="2999-01-01T00:00:00+07:00"))
        assert (await client.ask()).status == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/chat"])
async def test_the_largest_max_tokens_is_what_is_given_to_who_does_not_ask(path: str) -> None:
    async with limited(KeyLimits(max_tokens=3)) as (client, _):
        body: dict[str, Any] = {"prompt": "Count"} if path == "/v1/completions" else {}
        reply = await client.ask(path, **body)
        assert (reply.finish, len(reply.text.split())) == ("length", 3)
        for name in ("max_tokens", "max_completion_tokens")[: 1 if body else 2]:
            too_many = await client.ask(path, **body, **{name: 4})
            assert too_many.error is not None
            assert (too_many.status, too_many.error["param"]) == (400, "max_tokens")
        assert (await client.ask(path, **body, max_tokens=2)).text.split()[-1] == "capital"


async def test_what_a_client_was_sent_before_it_left_is_counted() -> None:
    async with limited(KeyLimits(tokens_per_minute=100_000), NO_LIMITS, *SLOW) as (client, _):
        body = {"messages": [{"role": "user", "content": "Count"}], "stream": True, "max_tokens": 8000}
        async with client.session.post(f"{client.url}/v1/chat/completions", json=body) as response:
            for _ in range(20):
                await response.content.readline()
            held = 100_000 - int(response.headers["x-ratelimit-remaining-tokens"])
            assert held > 8000
            response.close()
        await client.until(lambda: client.service.n_in_flight == 0)
        used = await used_tokens(client)
        assert 10 <= used < 2000


async def test_a_whole_answer_that_nobody_waited_for_counts_as_much_as_was_held() -> None:
    async with limited(KeyLimits(tokens_per_minute=100_000), NO_LIMITS, *SLOW) as (client, _):
        asking = asyncio.create_task(client.ask(max_tokens=8000))
        await client.until(lambda: any(link.serving and link.serving.uses for link in client.chain.links))
        asking.cancel()
        await asyncio.wait([asking])
        await client.until(lambda: client.service.n_in_flight == 0)
        assert await used_tokens(client) > 8000


async def test_who_was_refused_by_the_queue_or_left_it_is_not_charged_for_tokens() -> None:
    limits = KeyLimits(tokens_per_minute=100_000, requests_per_minute=10)
    async with limited(limits, NO_LIMITS, *SLOW, max_concurrent=1, max_queue=1) as (client, _):
        body = {"messages": [{"role": "user", "content": "Count"}], "stream": True}
        async with (
            client.using("test-key") as other,
            other.session.post(f"{client.url}/v1/chat/completions", json=body) as holding,
        ):
            waiting = asyncio.create_task(client.ask(max_tokens=8000))
            await client.until(lambda: client.service.admission.n_queued == 1)
            full = await client.ask()
            assert full.error is not None
            assert full.error["code"] == "queue_full"
            assert full.headers["x-ratelimit-remaining-requests"] == "9"  # the one that waits
            waiting.cancel()
            await asyncio.wait([waiting])
            holding.close()
        await client.until(lambda: client.service.n_in_flight == 0)
        assert await used_tokens(client) == 0


async def test_what_a_paused_service_refuses_is_not_counted() -> None:
    async with limited(KeyLimits(requests_per_minute=10)) as (client, _):
        client.service.is_paused = True
        paused = await client.ask()
        assert paused.error is not None
        assert (paused.status, paused.error["code"]) == (503, "service_paused")
        assert paused.headers["x-ratelimit-remaining-requests"] == "10"


@pytest.mark.parametrize(("fault", "stream", "status"), [("error_500", False, 500), ("cut", True, 200)])
async def test_of_what_the_engine_failed_only_what_was_sent_is_charged(fault: str, stream: bool, status: int) -> None:
    async with engine() as url, quick_gateway(url, Limiter(KeyLimits(tokens_per_minute=1000))) as client:
        async with client.session.post(f"{url}/_fault", json={"kind": fault, "after_words": 3}) as armed:
            assert armed.status == 200
        reply = await client.ask(stream=stream, max_tokens=500, n=2)
        assert reply.status == status
        assert reply.error is not None
        used = await used_tokens(client)
        assert 4 <= used < 200 if stream else used == 0


async def test_a_key_over_its_concurrency_waits_and_others_do_not() -> None:
    async with limited(KeyLimits(max_concurrent=1), NO_LIMITS, "--token-s", "0.01") as (client, _):
        replies = [asyncio.create_task(client.ask()) for _ in range(3)]
        await client.until(lambda: client.service.admission.n_queued == 2)
        assert client.service.admission.n_running == 1
        async with client.using("test-key") as other:
            assert (await other.ask()).status == 200
        assert {(await reply).status for reply in replies} == {200}


async def test_a_batch_job_does_not_keep_a_ward_waiting() -> None:
    async with (
        limited(KeyLimits(priority=Priority.HIGH), NO_LIMITS, "--token-s", "0.002", max_concurrent=1) as (
            ward,
            _,
        ),
        ward.using("test-key") as batch,
        asyncio.timeout(LIMIT_S),
    ):
        jobs = [asyncio.create_task(batch.ask()) for _ in range(20)]
        await ward.until(lambda: ward.service.admission.n_queued == 19)
        assert (await ward.ask()).status == 200
        assert sum(job.done() for job in jobs) < 10
        assert {(await job).status for job in jobs} == {200}


async def test_status_and_metrics_say_where_it_is_counted_and_what_was_refused() -> None:
    async with limited(KeyLimits(requests_per_minute=1)) as (client, _):
        await client.ask()
        await client.ask()
        _, body = await client.get("/status")
        assert body["limits"] == {"store": "memory", "refused": {"requests": 1, "tokens": 0}}
        async with client.session.get(f"{client.url}/metrics") as response:
            lines = (await response.text()).splitlines()
        assert 'gguf_rate_limited_requests_total{limit="requests"} 1.0' in lines
        assert "gguf_limits_store_reachable 1.0" in lines


async def used_tokens(client: Gateway) -> int:
    async with client.session.get(f"{client.url}/v1/models") as response:
        headers = response.headers
        return int(headers["x-ratelimit-limit-tokens"]) - int(headers["x-ratelimit-remaining-tokens"])
