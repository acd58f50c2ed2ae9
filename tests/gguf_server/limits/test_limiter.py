"""Counting across restarts, headers, estimates."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.openai_schema import ChatCompletionRequest
from gguf_server.errors import RequestsExceeded, TokensExceeded
from gguf_server.limits import spending
from gguf_server.limits.breaker import FIRST_PAUSE_S, LONGEST_PAUSE_S, Breaker
from gguf_server.limits.daily import DayCount
from gguf_server.limits.headers import duration, rate_limit_headers
from gguf_server.limits.limiter import Limiter
from gguf_server.limits.meters import Kind, Meter, Reading
from gguf_server.limits.policy import NO_LIMITS, KeyLimits
from gguf_server.limits.spending import Cost
from gguf_server.limits.windows import DAY, MINUTE
from tests.gguf_server.limits.clock import Clock

TODAY = date(2024, 10, 4)


async def test_a_day_goes_on_after_a_restart_where_it_stopped() -> None:
    clock = Clock()
    limiter = Limiter(now_s=clock)
    limiter.seed(TODAY, {"a": DayCount(9, 500), "b": DayCount(10, 0)})
    limits = KeyLimits(requests_per_day=10, tokens_per_day=1000)
    assert await limiter.admit("a", limits, 100)
    with pytest.raises(RequestsExceeded) as refused:
        await limiter.admit("a", limits, 100)
    assert refused.value.headers["Retry-After"] == "43200"
    with pytest.raises(RequestsExceeded):
        await limiter.admit("b", limits, 100)
    assert await limiter.admit("c", limits, 100)
    clock.now_s += 43_200
    assert await limiter.admit("b", limits, 100)


async def test_what_was_used_on_another_day_is_over() -> None:
    limiter = Limiter(now_s=Clock())
    limiter.seed(date(2024, 10, 3), {"a": DayCount(10, 1000)})
    assert await limiter.admit("a", KeyLimits(requests_per_day=10, tokens_per_day=1000), 900)


async def test_the_limit_that_takes_longest_is_the_one_that_is_told() -> None:
    limiter = Limiter(now_s=Clock())
    limits = KeyLimits(requests_per_minute=1, tokens_per_day=100)
    assert await limiter.admit("a", limits, 60)
    with pytest.raises(TokensExceeded, match="100 tokens per day") as refused:
        await limiter.admit("a", limits, 60)
    assert refused.value.type == "tokens"
    assert limiter.n_refused == {Kind.REQUESTS: 0, Kind.TOKENS: 1}


async def test_keys_do_not_count_against_each_other_and_whoever_has_no_limits_is_not_counted() -> None:
    limiter = Limiter(now_s=Clock())
    limits = KeyLimits(requests_per_minute=1)
    assert await limiter.admit("a", limits, 1)
    assert await limiter.admit("b", limits, 1)
    assert await limiter.admit("c", NO_LIMITS, 1) is None
    assert await limiter.read("c", NO_LIMITS) == ()


def test_of_several_limits_the_nearest_is_told() -> None:
    readings = (
        Reading(Meter(Kind.REQUESTS, MINUTE, 60), 10, 30.2),
        Reading(Meter(Kind.REQUESTS, DAY, 100), 90, 3600.0),
        Reading(Meter(Kind.TOKENS, DAY, 1000), 1200, 0.0),
    )
    assert rate_limit_headers(readings) == {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "10",
        "x-ratelimit-reset-requests": "1h0m0s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "0s",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.0121, "13ms"), (0.9995, "1s"), (1, "1s"), (59.2, "1m0s"), (360, "6m0s"), (86_341, "23h59m1s")],
)
def test_a_time_is_written_as_openai_writes_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_cost_is_the_prompt_within_the_context_and_all_that_may_be_answered() -> None:
    words = "fever " * 1000
    chat = ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": words}], "n": 2})
    assert spending.of_chat(chat, 100, 512) == Cost(512, 200)
    assert 1000 <= spending.of_chat(chat, 100, 100_000).n_prompt <= 3000
    parts = [{"type": "text", "text": "x" * 10_000_000}, {"type": "text", "text": None}]
    long = ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": parts}]})
    assert spending.of_chat(long, 100, 512) == Cost(512, 100)
    assert spending.of_prompts("fever", 10, 100) == Cost(2, 10)
    assert spending.of_prompts([1, 2, 3], 10, 100) == Cost(3, 10)
    assert spending.of_prompts([[1, 2], [3]], 10, 100) == Cost(3, 20)
    assert spending.of_prompts(["fever", "fever"], 0, 100) == Cost(4, 0)


@given(st.lists(st.booleans(), max_size=30))
def test_what_failed_is_tried_again_after_pauses_that_double_by_one_at_a_time(outcomes: list[bool]) -> None:
    breaker, now_s = Breaker(), 0.0
    assert breaker.failed(now_s)
    pause_s = FIRST_PAUSE_S
    for is_well in outcomes:
        assert not breaker.may_try(now_s + pause_s - 0.001)
        now_s += pause_s
        assert breaker.may_try(now_s)
        assert not breaker.may_try(now_s)
        if is_well:
            assert breaker.succeeded()
            assert breaker.may_try(now_s)
            assert not breaker.succeeded()
            assert breaker.failed(now_s)
            pause_s = FIRST_PAUSE_S
        else:
            assert not breaker.failed(now_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
