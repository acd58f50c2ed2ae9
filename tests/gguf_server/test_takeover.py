"""Requests whose engine fails, as their clients see them: fake engines, real processes, real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gguf_server import chain
from tests.gguf_server.gateway import CALM, SOON, Reply, gateway

N_WORDS = 30
WORDS = " ".join(f"w{i}" for i in range(1, N_WORDS + 1))
THOUGHTS = " ".join(f"r{i}" for i in range(1, 11))
ENGINE = ("--answer-words", str(N_WORDS))
THINKER = (*ENGINE, "--reasoning-words", "10")
SLOW = (*ENGINE, "--token-s", "0.01")

CRASHES = ["exit", "kill", "error_500", "error_event", "garbage", "cut"]


def assert_whole(reply: Reply, *, n_failovers: int = 1) -> None:
    """Nothing lost, nothing doubled, one identity, one role, a proper end."""
    assert reply.error is None
    assert reply.is_done
    assert reply.text == WORDS
    assert reply.finish == "stop"
    assert len({event["id"] for event in reply.events}) == 1
    assert sum("role" in choice["delta"] for choice in reply.choices) == 1
    told = [event["x_engine_failovers"] for event in reply.events if "x_engine_failovers" in event]
    assert told == list(range(1, n_failovers + 1))


@pytest.mark.parametrize("standby", ["cold", "warm"])
@pytest.mark.parametrize("kind", CRASHES)
async def test_a_whole_answer_is_made_by_the_next_engine(kind: str, standby: str) -> None:
    async with gateway(ENGINE, ENGINE, standby=standby) as gw:
        await gw.until_up("a", *("b" if standby == "warm" else ""))
        await gw.arm("a", kind)
        reply = await gw.ask()
        assert (reply.status, reply.text) == (200, WORDS)
        assert (reply.engine, reply.n_failovers) == ("b", 1)
        assert reply.body["usage"]["completion_tokens"] == N_WORDS


@pytest.mark.parametrize("kind", CRASHES)
async def test_a_stream_that_said_nothing_begins_at_the_next_engine(kind: str) -> None:
    async with gateway(ENGINE, ENGINE, standby="warm") as gw:
        await gw.until_up("a", "b")
        await gw.arm("a", kind)
        reply = await gw.ask(stream=True)
        assert_whole(reply, n_failovers=0)
        assert (reply.engine, reply.n_failovers) == ("b", 1)


@pytest.mark.parametrize("standby", ["cold", "warm"])
@pytest.mark.parametrize("kind", [kind for kind in CRASHES if kind != "error_500"])
async def test_a_stream_goes_on_where_it_stopped(kind: str, standby: str) -> None:
    async with gateway(ENGINE, ENGINE, standby=standby) as gw:
        await gw.until_up("a", *("b" if standby == "warm" else ""))
        await gw.arm("a", kind, after_words=13)
        reply = await gw.ask(stream=True, stream_options={"include_usage": True})
        assert_whole(reply)
        assert (reply.engine, reply.n_failovers) == ("a", 0)  # the headers had left
        usage = reply.events[-1]["usage"]
        assert usage == {"prompt_tokens": 1, "completion_tokens": N_WORDS, "total_tokens": N_WORDS + 1}


async def test_a_stream_of_which_only_the_role_was_sent_goes_on() -> None:
    async with gateway(ENGINE, ENGINE, standby="warm") as gw:
        await gw.until_up("a", "b")
        await gw.arm("a", "cut", after_role=True)
        assert_whole(await gw.ask(stream=True))


@pytest.mark.parametrize("after_words", [4, 10, 17])
async def test_reasoning_goes_on_as_reasoning_and_is_not_thought_twice(after_words: int) -> None:
    async with gateway(THINKER, THINKER, standby="warm") as gw:
        await gw.until_up("a", "b")
        await gw.arm("a", "kill", after_words=after_words)
        reply = await gw.ask(stream=True)
        assert_whole(reply)
        assert reply.said("reasoning_content") == reply.said("reasoning") == THOUGHTS


async def test_a_stream_moves_once_for_each_engine_that_is_left() -> None:
    async with gateway(SLOW, SLOW, SLOW) as gw:
        await gw.until_up("a")
        await gw.arm("a", "kill", after_words=5)
        asking = asyncio.create_task(gw.ask(stream=True))
        await gw.until_up("b")
        await gw.arm("b", "exit", after_words=4)
        assert_whole(await asking, n_failovers=2)


async def test_the_budget_counts_what_was_sent() -> None:
    async with gateway(ENGINE, ENGINE, standby="warm") as gw:
        await gw.until_up("a", "b")
        await gw.arm("a", "kill", after_words=13)
        reply = await gw.ask(stream=True, max_tokens=20)
        assert reply.text == " ".join(f"w{i}" for i in range(1, 21))
        assert (reply.finish, reply.error) == ("length", None)


async def test_an_engine_that_dies_after_the_last_token_leaves_a_whole_answer() -> None:
    async with gateway(ENGINE, ENGINE, standby="warm") as gw:
        await gw.until_up("a", "b")
        await gw.arm("a", "kill", after_words=20)
        reply = await gw.ask(stream=True, max_tokens=20)
        assert (reply.finish, reply.error, reply.is_done) == ("length", None, True)
        assert reply.text.endswith("w20")


async def test_a_text_completion_goes_on_too() -> None:
    async with gateway(ENGINE, ENGINE, standby="warm") as gw:
        await gw.until_up("a", "b")
        await gw.arm("a", "kill", after_words=7)
        reply = await gw.ask("/v1/completions", prompt="Count: ", stream=True)
        assert (reply.text, reply.error, reply.is_done) == (WORDS, None, True)
        assert len({event["id"] for event in reply.events}) == 1


@pytest.mark.parametrize(
    "more", [{"response_format": {"type": "json_object"}}, {"tool_choice": "required", "tools": [{}]}, {"n": 2}]
)
async def test_what_cannot_go_on_ends_with_a_word(more: dict[str, Any]) -> None:
    async with gateway(ENGINE, ENGINE, standby="warm") as gw:
        await gw.until_up("a", "b")
        await gw.arm("a", "kill", after_words=3)
        reply = await gw.ask(stream=True, **more)
        assert reply.error is not None
        assert reply.error["code"] == "engine_failed"
        assert "cannot be continued" in reply.error["message"]
        assert reply.is_done
        assert reply.text == "w1 w2 w3"


async def test_without_another_engine_a_request_ends_with_500() -> None:
    async with gateway(ENGINE) as gw:
        await gw.until_up("a")
        await gw.arm("a", "kill")
        reply = await gw.ask()
        assert reply.status == 500
        assert reply.error is not None
        assert reply.error["code"] == "engine_failed"


async def test_when_the_next_will_not_load_either_it_ends_with_500() -> None:
    async with gateway(ENGINE, ("--exit-at-load", "3")) as gw:
        await gw.until_up("a")
        await gw.arm("a", "kill")
        assert (await gw.ask()).status == 500
        _, body = await gw.get("/status")
        assert [engine["last_failure"]["reason"] for engine in body["engines"]] == ["crashed", "crashed"]


async def test_one_answer_that_went_wrong_in_a_sound_engine_goes_on_there() -> None:
    async with gateway(SLOW) as gw:
        await gw.until_up("a")
        serving = gw.link("a").serving
        asking = asyncio.create_task(gw.ask(stream=True))
        await gw.until(lambda: any(use.has_begun for use in serving.uses))
        for use in serving.uses:
            use.cut("a test")
        reply = await asking
        assert (reply.text, reply.error) == (WORDS, None)
        assert gw.link("a").serving is serving
        assert not serving.is_suspect


async def test_a_clients_mistake_is_nobodys_failure() -> None:
    async with gateway(ENGINE, ENGINE, standby="warm") as gw:
        await gw.until_up("a", "b")
        assert (await gw.ask(temperature=-3)).status == 400
        assert (await gw.ask(model="nobody")).status == 404
        assert gw.link("a").serving.n_failures == 0


async def test_a_client_that_leaves_while_it_waits_for_the_next_engine_leaves_nothing_behind() -> None:
    async with gateway(SLOW, (*ENGINE, "--load-s", "1000")) as gw:
        await gw.until_up("a")
        await gw.arm("a", "kill", after_words=5)
        asking = asyncio.create_task(gw.ask(stream=True))
        await gw.until(lambda: gw.link("b").n_starts == 1)
        assert gw.service.n_in_flight == 1
        asking.cancel()
        await gw.until(lambda: gw.service.n_in_flight == 0)
        assert gw.service.admission.n_running == 0


async def test_requests_that_waited_in_the_queue_wait_for_the_next_engine() -> None:
    async with gateway(SLOW, SLOW, max_concurrent=1) as gw:
        await gw.until_up("a")
        await gw.arm("a", "kill", after_words=10)
        replies = await asyncio.gather(*(gw.ask(stream=True) for _ in range(4)))
        assert [reply.text for reply in replies] == [WORDS] * 4
        assert [reply.error for reply in replies] == [None] * 4


async def test_who_comes_while_nothing_serves_is_told_to_come_back() -> None:
    async with gateway((*ENGINE, "--load-s", "1000")) as gw:
        reply = await gw.ask()
        assert reply.status == 503
        assert reply.headers["retry-after"]


async def test_a_hang_is_noticed_although_health_is_well() -> None:
    async with gateway(SLOW, SLOW, failover=SOON) as gw:
        await gw.until_up("a")
        await gw.arm("a", "hang", after_words=5)
        streaming, whole = await asyncio.gather(gw.ask(stream=True), gw.ask())
        assert_whole(streaming)
        assert (whole.text, whole.engine, whole.n_failovers) == (WORDS, "b", 1)
        _, body = await gw.get("/status")
        failure = body["engines"][0]["last_failure"]
        assert failure["reason"] == "unhealthy"
        assert "hangs" in failure["detail"]


async def test_a_stopped_process_is_noticed_and_killed() -> None:
    async with gateway(SLOW, SLOW, failover=SOON) as gw:
        await gw.until_up("a")
        await gw.arm("a", "stop", after_words=5)
        assert_whole(await gw.ask(stream=True))


async def test_an_idle_engine_that_hangs_is_replaced_before_anybody_asks() -> None:
    async with gateway(ENGINE, ENGINE, failover=SOON) as gw:
        await gw.until_up("a")
        await gw.arm("a", "hang")
        await gw.until_up("b")
        assert (await gw.ask()).engine == "b"


async def test_five_failures_in_a_row_are_enough_whatever_the_probe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "_DYING_S", 0.1)
    async with gateway(ENGINE, ENGINE) as gw:
        await gw.until_up("a")
        serving = gw.link("a").serving
        for _ in range(5):
            serving.failed()
        await gw.until_up("b")
        await gw.until(lambda: gw.link("a").n_failures == 1)
        assert "5 requests in a row" in gw.link("a").engine.failure.detail


async def test_an_engine_that_was_given_up_is_not_called_ready_while_its_end_is_waited_for() -> None:
    async with gateway(ENGINE, ENGINE, standby="warm") as gw:
        await gw.until_up("a", "b")
        serving = gw.link("a").serving
        for _ in range(5):
            serving.failed()
        await gw.until(lambda: gw.link("a").serving is None)
        _, status = await gw.get("/status")
        assert [engine["state"] for engine in status["engines"]] == ["draining", "ready"]
        assert status["vllm_ready"] is False


async def test_status_counts_what_happened() -> None:
    async with gateway(ENGINE, ENGINE, standby="warm") as gw:
        await gw.until_up("a", "b")
        assert (await gw.get("/health"))[1]["vllm_server"] == "healthy"
        await gw.arm("a", "kill")
        await gw.ask()
        await gw.until(lambda: gw.link("a").n_failures == 1)
        _, status = await gw.get("/status")
        assert status["totals"]["failovers"] == 1
        assert status["engine"] == "b"
        assert status["vllm_ready"] is False
        assert status["engines"][0]["failures"] == {"crashed": 1}
        assert status["engines"][0]["last_failure"]["detail"] == "killed by SIGKILL"
        code, health = await gw.get("/health")
        assert (code, health["engine"], health["vllm_server"]) == (200, "b", "unavailable")


async def test_the_primary_comes_back_without_dropping_a_request() -> None:
    rules = CALM.model_copy(update={"failback": True, "failback_after_s": 1.0, "stable_after_s": 0.2})
    async with gateway(SLOW, SLOW, failover=rules) as gw:
        await gw.until_up("a")
        await gw.arm("a", "kill", after_words=3)
        replies: list[Reply] = []

        async def keep_asking() -> None:
            while gw.link("a").n_starts < 2 or gw.link("b").serving is not None:
                replies.append(await gw.ask(stream=True))

        await asyncio.wait_for(asyncio.gather(*(keep_asking() for _ in range(4))), 20)
        assert {reply.text for reply in replies} == {WORDS}
        assert not any(reply.error for reply in replies)
        assert {reply.engine for reply in replies} >= {"a", "b"}


async def test_metrics_count_failures_by_reason_and_moves() -> None:
    async with gateway(ENGINE, ENGINE, standby="warm") as gw:
        await gw.until_up("a", "b")
        await gw.arm("a", "kill")
        await gw.ask()
        await gw.until(lambda: gw.link("a").n_failures == 1)
        async with gw.session.get(gw.url + "/metrics") as response:
            lines = (await response.text()).splitlines()
        of_a = 'device="cpu",engine="0:a",kind="vllm"'
        assert f'gguf_engine_failures_total{{{of_a},reason="crashed",service="fake"}} 1.0' in lines
        assert f'gguf_engine_serving{{{of_a},service="fake"}} 0.0' in lines
        assert 'gguf_engine_serving{device="cpu",engine="1:b",kind="llamacpp",service="fake"} 1.0' in lines
        assert 'gguf_failovers_total{service="fake"} 1.0' in lines
        async with gw.session.get(gw.url + "/metrics", headers={"Authorization": "Bearer no"}) as response:
            assert response.status == 401
