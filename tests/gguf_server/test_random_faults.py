"""Engines that suffer at random under load: whatever happens, every request comes to a proper end and nothing is left.

GGUF_FAULT_ROUNDS says how many rounds; `make test-faults` makes 1,000 of them.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from contextlib import suppress
from typing import Any

import aiohttp
import psutil
import pytest

from gguf_server import chain
from gguf_server.failover import Phase
from gguf_server.settings import FailoverSettings
from tests.backends.fake_answers import counted_answer
from tests.backends.fake_engine import numbered
from tests.gguf_server.gateway import Gateway, Reply, gateway

N_ROUNDS = int(os.environ.get("GGUF_FAULT_ROUNDS", "12"))
ROUNDS_PER_GATEWAY = 6
N_WORDS, N_THOUGHTS = 24, 6
WORDS = "".join(numbered("w", N_WORDS))
ENGINE = ("--answer-words", str(N_WORDS), "--reasoning-words", str(N_THOUGHTS), "--token-s", "0.004")
KINDS = ("none", "exit", "kill", "stop", "hang", "error_500", "error_event", "garbage", "cut")
MOVING = (Phase.STARTING, Phase.ENDING)
RULES = FailoverSettings(
    stall_s=0.4,
    probe_every_s=0.4,
    probe_timeout_s=0.4,
    max_failures=5,
    failback_after_s=0.2,
    failback_longest_s=1.0,
    stable_after_s=0.05,
)


def engines_of(dice: random.Random) -> list[tuple[str, ...]]:
    """Three, of which one may refuse to load or take its time, so that one is always left when another suffers."""
    at_load = [(), (), ("--load-s", "0.3"), ("--exit-at-load", "1"), ("--exit-at-load", "-9")]
    made = [(*ENGINE, *dice.choice(at_load)), ENGINE, ENGINE]
    dice.shuffle(made)
    return made


def request_of(dice: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {"stream": dice.random() < 0.7}
    if dice.random() < 0.2:
        body |= {"path": "/v1/completions", "prompt": "Count: "}
    if dice.random() < 0.2:
        body["max_tokens"] = dice.randint(1, N_WORDS)
    if body["stream"] and dice.random() < 0.5:
        body["stream_options"] = {"include_usage": True}
    return body


def verdict(reply: Reply, body: dict[str, Any]) -> str:
    """How a request ended; fails where that is not a proper end."""
    if body["stream"] and reply.status == 200:
        assert reply.is_done
    if reply.error is not None:
        assert reply.error["code"] == "engine_failed", reply.error
        assert WORDS.startswith(reply.text) if reply.status == 200 else reply.status == 500
        return "lost"
    assert reply.status == 200
    expected = counted_answer(body, n_words=N_WORDS, n_thoughts=N_THOUGHTS)
    assert reply.said("reasoning_content") == expected.reasoning
    assert reply.text == expected.content
    assert reply.finish == expected.finish
    if usage := next((event["usage"] for event in reply.events if event.get("usage")), None):
        assert usage["completion_tokens"] == expected.n_tokens
    return "whole"


async def one_round(gw: Gateway, dice: random.Random) -> Counter[str]:
    """One engine suffers while six clients ask; afterwards it is well again, or gone."""
    await gw.until(lambda: gw.chain.serving is not None and not any(link.phase in MOVING for link in gw.chain.links))
    victim = dice.choice([link.engine.name for link in gw.chain.links if link.serving is not None])
    kind = dice.choice(KINDS)
    with suppress(aiohttp.ClientError):
        await gw.arm(victim, kind, after_words=dice.randint(0, 20), exit_after_s=0.1)
    bodies = [request_of(dice) for _ in range(6)]
    replies = await asyncio.gather(*(gw.ask(**body) for body in bodies))
    with suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(0.5):  # a stopped one does not answer
            await gw.arm(victim, "none")
    return Counter(verdict(reply, body) for reply, body in zip(replies, bodies, strict=True))


def engines_left() -> list[psutil.Process]:
    """Fake engines and their guards; other tests of this run may have processes of their own."""
    below = psutil.Process().children(recursive=True)
    return [process for process in below if "tests.backends.fake_engine" in process.cmdline()]


@pytest.mark.timeout(60 + 10 * N_ROUNDS)
async def test_every_request_ends_properly_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "_DYING_S", 0.3)
    dice = random.Random(20261122)
    before = asyncio.all_tasks()
    ends: Counter[str] = Counter()
    done = 0
    while done < N_ROUNDS:
        async with gateway(*engines_of(dice), standby=dice.choice(("cold", "warm")), failover=RULES) as gw:
            for _ in range(min(ROUNDS_PER_GATEWAY, N_ROUNDS - done)):
                ends += await one_round(gw, dice)
                done += 1
            assert not any(link.serving.uses for link in gw.chain.links if link.serving is not None)
        assert not engines_left()
        assert not asyncio.all_tasks() - before
    print(f"{done} rounds: {dict(ends)}")
    assert ends.total() == 6 * N_ROUNDS
    assert not ends["lost"]
