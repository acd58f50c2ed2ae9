"""Beginnings that people share and conversations that come back, in real workers: nothing is computed twice, and what
is built on cells of others is llama.cpp's own text.

Both layouts of the cache (a stream for each sequence, one pool for all), and a memory of each kind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from backends.llamacpp.prefix_tree import common_prefix
from tests.backends.llamacpp.reference import MAX_TIE_GAP, Reference, open_reference
from tests.backends.llamacpp.worker import Client, Worker, started, until

N_CTX = 640
N_SEQS = 4
N_CELLS = {"streams": N_CTX * N_SEQS, "pool": N_CTX * 2}
BOS = {"gemma4": "<bos>"}
MODELS = ("qwen3", "gemma4", "mamba")
TEXT = "/v1/completions"


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=N_CELLS)
def shared(name: str, request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]) -> Iterator[Worker]:
    flags = ("--n-ctx", str(N_CTX), "--n-parallel", str(N_SEQS), "--n-ctx-total", str(N_CELLS[request.param]))
    with started(*flags, "--n-batch", "64", model=tiny_model(name)) as worker:
        yield worker


@pytest.fixture
async def client(shared: Worker) -> AsyncIterator[Client]:
    async with shared.client() as client:
        yield client


@pytest.fixture(scope="module")
def reference(name: str, tiny_model: Callable[[str], Path]) -> Iterator[Reference]:
    with open_reference(N_CTX, model=tiny_model(name)) as reference:
        yield reference


def words(*numbers: int) -> str:
    """A text that no other begins like."""
    return " ".join(f"{number} people live in the city" for number in numbers)


async def answered(client: Client, prompt: str, n_tokens: int) -> dict[str, Any]:
    return dict(await client.complete(prompt, max_tokens=n_tokens, temperature=0, ignore_eos=True))


def n_cached(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


async def test_system_prompt_of_sixteen_people_is_computed_once(
    client: Client, reference: Reference, name: str
) -> None:
    begin = words(*range(100, 130))
    prompts = [f"{begin} {number} and what then" for number in range(200, 216)]
    tokens = [await client.tokens_of(prompt, add_special=True) for prompt in prompts]
    n_shared = min(common_prefix(tokens[0], other) for other in tokens)
    before = await client.metrics()
    body = {"prompt": prompts, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    answer = await client.ok(TEXT, body)
    after = await client.metrics()
    computed = after["prompt_tokens_total"] - before["prompt_tokens_total"]
    assert n_shared > 200
    assert computed <= n_shared + sum(len(prompt) - n_shared for prompt in tokens)
    assert n_cached(answer) == after["prompt_tokens_reused_total"] - before["prompt_tokens_reused_total"]
    for prompt, choice in list(zip(prompts, answer["choices"], strict=True))[::5]:
        gaps = reference.gaps_on_the_way(BOS.get(name, "") + prompt, choice["text"], 8)
        assert all(gap <= MAX_TIE_GAP for gap in gaps), gaps


async def test_no_turn_of_more_people_than_sequences_computes_again_what_was_computed(
    client: Client, reference: Reference, name: str
) -> None:
    at_once = asyncio.Semaphore(N_SEQS)

    async def talk(person: int) -> None:
        said, n_before = words(300 + person), 0
        for turn in range(4):
            async with at_once:
                answer = await answered(client, said, 1)
            assert n_cached(answer) >= n_before
            n_before = answer["usage"]["prompt_tokens"] if answer["usage"]["prompt_tokens"] > 16 else 0
            if turn == 3 and person % 3 == 0:
                gaps = reference.gaps_on_the_way(BOS.get(name, "") + said, answer["choices"][0]["text"], 1)
                assert all(gap <= MAX_TIE_GAP for gap in gaps), gaps
            said += f" and {words(400 + turn, 500 + person)}"

    before = await client.metrics()
    await asyncio.gather(*(talk(person) for person in range(9)))
    assert (await client.metrics())["prefix_restores_total"] > before["prefix_restores_total"]


async def test_who_leads_may_leave_and_the_others_take_over(client: Client, reference: Reference, name: str) -> None:
    begin = words(*range(600, 640))
    before = await client.metrics()

    async def is_computing() -> bool:
        return (await client.metrics())["prompt_tokens_total"] > before["prompt_tokens_total"]

    leader = asyncio.create_task(answered(client, begin, 8))
    await until(is_computing)
    followers = [asyncio.create_task(answered(client, f"{begin} {number} times", 8)) for number in (1, 2)]
    leader.cancel()
    with suppress(asyncio.CancelledError):
        await leader
    for number, follower in zip((1, 2), followers, strict=True):
        text = (await follower)["choices"][0]["text"]
        gaps = reference.gaps_on_the_way(f"{BOS.get(name, '')}{begin} {number} times", text, 8)
        assert all(gap <= MAX_TIE_GAP for gap in gaps), gaps


async def test_answers_that_need_more_cells_than_there_are_take_turns_and_compute_nothing_twice(
    client: Client, reference: Reference, name: str
) -> None:
    prompts = [words(*range(first, first + 10)) for first in (700, 720, 740, 760)]
    n_prompt_tokens = [len(await client.tokens_of(prompt, add_special=True)) for prompt in prompts]
    n_tokens = N_CTX // 2 + 40 - max(n_prompt_tokens)
    before = await client.metrics()
    answers = await asyncio.gather(*(answered(client, prompt, n_tokens) for prompt in prompts))
    after = await client.metrics()
    computed = after["prompt_tokens_total"] - before["prompt_tokens_total"]
    assert computed <= sum(n_prompt_tokens) + after["preemptions_total"] - before["preemptions_total"]
    assert all(answer["usage"]["completion_tokens"] == n_tokens for answer in answers)
    for prompt, answer in list(zip(prompts, answers, strict=True))[2:]:
        text = answer["choices"][0]["text"]
        gaps = reference.gaps_on_the_way(BOS.get(name, "") + prompt, text, n_tokens)
        assert all(gap <= MAX_TIE_GAP for gap in gaps), gaps


async def test_answer_that_moves_to_another_stream_goes_on_as_if_it_had_not(
    client: Client, reference: Reference, name: str
) -> None:
    prompts = [words(number) for number in (800, 810, 820, 830)]
    asked = zip(prompts, (80, 8, 8, 80), strict=True)
    answers = await asyncio.gather(*(answered(client, prompt, n_tokens) for prompt, n_tokens in asked))
    for prompt, answer in zip(prompts, answers, strict=True):
        n_tokens = answer["usage"]["completion_tokens"]
        gaps = reference.gaps_on_the_way(BOS.get(name, "") + prompt, answer["choices"][0]["text"], n_tokens)
        assert all(gap <= MAX_TIE_GAP for gap in gaps), gaps


async def test_cache_agrees_with_llama_when_everybody_has_gone(client: Client) -> None:
    await until(client.is_idle)
    metrics = await client.metrics()
    assert metrics["cache_checks_total"] > 0
    assert metrics["failed_steps_total"] == 0
