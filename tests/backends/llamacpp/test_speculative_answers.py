"""A real worker that guesses says what one says that does not.

What may differ and why is in `tests.backends.llamacpp.reference`: how many rows a batch has moves its logits a little.
Texts that differ are held against llama.cpp's own logits, token by token.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.llamacpp.reference import MAX_TIE_GAP, Reference, open_reference
from tests.backends.llamacpp.worker import Client, Worker, failing_run, started

RECORD = """Patient record
Name: Nguyen Thi Lan
Ward: Internal medicine, room 212, bed 3
Diagnosis: community-acquired pneumonia, type 2 diabetes, arterial hypertension
Medication: amoxicillin 1 g three times a day, metformin 850 mg twice a day, amlodipine 5 mg once a day
"""
COPY = f"The record:\n\n{RECORD}\nThe same record again:\n\nPatient record\n"
ORDINARY = "Once upon a time, in a small village by the sea,"
N_TOKENS = 56


@pytest.fixture(scope="module")
def guessing() -> Iterator[Worker]:
    with started("--n-ctx", "1024", "--n-parallel", "4", "--speculation", "lookup") as worker:
        yield worker


@pytest.fixture
async def guesser(guessing: Worker) -> AsyncIterator[Client]:
    async with guessing.client() as client:
        yield client


@pytest.fixture(scope="module")
def reference() -> Iterator[Reference]:
    with open_reference(n_ctx=512) as reference:
        yield reference


async def text_of(client: Client, prompt: str, **fields: Any) -> str:
    answer = await client.complete(prompt, **{"max_tokens": N_TOKENS, "temperature": 0, **fields})
    return str(answer["choices"][0]["text"])


async def drafted(client: Client) -> tuple[float, float]:
    metrics = await client.metrics()
    return metrics["draft_tokens_total"], metrics["draft_tokens_accepted_total"]


@pytest.mark.parametrize("prompt", [COPY, ORDINARY], ids=["copy", "ordinary"])
async def test_greedy_text_is_that_without_guesses(
    guesser: Client, client: Client, reference: Reference, prompt: str
) -> None:
    text = await text_of(guesser, prompt)
    if text != await text_of(client, prompt):
        gaps = reference.gaps_on_the_way(prompt, text, N_TOKENS)
        assert all(gap <= MAX_TIE_GAP for gap in gaps), gaps


@pytest.mark.parametrize("prompt", [COPY, ORDINARY], ids=["copy", "ordinary"])
async def test_sampled_text_is_what_its_seed_draws(guesser: Client, reference: Reference, prompt: str) -> None:
    fields = {"temperature": 0.8, "seed": 11, "max_tokens": 40, "ignore_eos": True, "logprobs": 1}
    (choice,) = (await guesser.complete(prompt, **fields))["choices"]
    pieces = choice["logprobs"]["tokens"]
    assert len(pieces) == 40
    assert "".join(pieces) == choice["text"]
    misses = reference.misses_on_the_way(prompt, pieces, temperature=0.8, seed=11)
    assert max(misses) < 0.05, misses


async def test_copying_accepts_guesses_and_takes_fewer_steps(guesser: Client) -> None:
    before, steps = await drafted(guesser), (await guesser.metrics())["steps_total"]
    assert RECORD.partition("\n")[2][:90] in await text_of(guesser, COPY)
    after, later = await drafted(guesser), (await guesser.metrics())["steps_total"]
    n_accepted = after[1] - before[1]
    assert 0 < n_accepted <= after[0] - before[0]
    assert later - steps <= N_TOKENS - n_accepted + 1


async def test_several_at_once_each_say_their_own(guesser: Client, client: Client, reference: Reference) -> None:
    prompts = [COPY.replace("212", str(room)) for room in (317, 428)] + [ORDINARY]
    texts = await asyncio.gather(*(text_of(guesser, prompt) for prompt in prompts))
    for prompt, text in zip(prompts, texts, strict=True):
        if text != await text_of(client, prompt):
            gaps = reference.gaps_on_the_way(prompt, text, N_TOKENS)
            assert all(gap <= MAX_TIE_GAP for gap in gaps), gaps
    assert "317" in texts[0]
    assert "428" in texts[1]


async def test_stop_string_and_max_tokens_end_where_they_do_without_guesses(guesser: Client, client: Client) -> None:
    for limits in ({"stop": ["pneumonia"]}, {"max_tokens": 33}):
        fields = {"max_tokens": N_TOKENS, "temperature": 0, **limits}
        one, other = await guesser.complete(COPY, **fields), await client.complete(COPY, **fields)
        assert one["choices"] == other["choices"]
        assert one["usage"]["completion_tokens"] == other["usage"]["completion_tokens"]


async def test_bias_and_penalties_are_heeded_token_by_token(guesser: Client, client: Client) -> None:
    (token,) = await client.tokens_of("met")
    banned = await text_of(guesser, COPY, logit_bias={str(token): -100})
    assert "metformin 850" not in banned
    fields = {"frequency_penalty": 0.4, "repetition_penalty": 1.1, "max_tokens": 32}
    assert await text_of(guesser, COPY, **fields) == await text_of(client, COPY, **fields)


async def test_stream_brings_the_same_text_and_counts(guesser: Client) -> None:
    body = {"prompt": COPY, "max_tokens": N_TOKENS, "temperature": 0, "stream_options": {"include_usage": True}}
    seen = await guesser.stream("/v1/completions", body)
    assert seen.text() == await text_of(guesser, COPY)
    assert seen.chunks[-1]["usage"]["completion_tokens"] == N_TOKENS
    assert seen.finish() == "length"


async def test_worker_that_was_not_told_to_does_not_guess(client: Client) -> None:
    await text_of(client, COPY, max_tokens=20)
    assert await drafted(client) == (0, 0)


@pytest.mark.parametrize(("name", "guesses"), [("gemma4", True), ("mamba", False)])
def test_memory_decides_whether_there_are_guesses(tiny_model: Callable[[str], Path], name: str, guesses: bool) -> None:
    """A sliding window can be taken back by the tokens of one step, a recurrent state by none."""
    prompt = [*range(40, 60), *range(40, 52)]
    flags = ("--n-ctx", "640", "--n-parallel", "2")

    async def texts(worker: Worker) -> tuple[list[str], tuple[float, float]]:
        fields = {"max_tokens": 60, "temperature": 0, "ignore_eos": True}
        async with worker.client() as client:
            asked = (client.complete([*prompt, last], **fields) for last in (52, 53))
            answers = await asyncio.gather(*asked)
            return [answer["choices"][0]["text"] for answer in answers], await drafted(client)

    with started(*flags, "--speculation", "lookup", model=tiny_model(name)) as worker:
        guessed, (n_drafted, _) = asyncio.run(texts(worker))
    with started(*flags, model=tiny_model(name)) as worker:
        plain, _ = asyncio.run(texts(worker))
    assert guessed == plain
    assert (n_drafted > 0) == guesses


def test_unknown_way_of_guessing_is_refused() -> None:
    exit_code, said = failing_run("--speculation", "crystal-ball")
    assert exit_code == 2
    assert "--speculation" in said
