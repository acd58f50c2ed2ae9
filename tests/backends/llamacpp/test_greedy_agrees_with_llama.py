"""Greedy answers are those of llama.cpp's own Python class: alone, in a full batch, behind cells that others computed.

What may differ and why is in `tests.backends.llamacpp.reference`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.backends.llamacpp.reference import MAX_TIE_GAP, Reference, open_reference
from tests.backends.llamacpp.worker import Worker

N_TOKENS = 48

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n",
    "Count from 1 to 20: 1, 2, 3, 4,",
    "Việt Nam là một quốc gia nằm ở",
    "The three laws of thermodynamics are",
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "Q: Why is the sky blue?\nA:",
)


@pytest.fixture(scope="module")
def reference() -> Iterator[Reference]:
    with open_reference() as reference:
        yield reference


async def greedy_texts(worker: Worker, prompts: tuple[str, ...], n_tokens: int = N_TOKENS) -> list[str]:
    async with worker.client() as client:
        answers = (client.complete(prompt, max_tokens=n_tokens, temperature=0) for prompt in prompts)
        return [answer["choices"][0]["text"] for answer in await asyncio.gather(*answers)]


@pytest.fixture(scope="module")
def texts_in_a_crowd(worker: Worker) -> dict[str, str]:
    """Answers to every prompt from a batch of sixteen."""
    others = tuple(f"A list of {i} things:" for i in range(2, 10))
    return dict(zip(PROMPTS, asyncio.run(greedy_texts(worker, PROMPTS + others)), strict=False))


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_answer_given_alone_is_llamas(worker: Worker, reference: Reference, prompt: str) -> None:
    (text,) = await greedy_texts(worker, (prompt,))
    gaps = reference.gaps_on_the_way(prompt, text, N_TOKENS)
    assert all(gap <= MAX_TIE_GAP for gap in gaps), gaps


@pytest.mark.parametrize("prompt", PROMPTS)
def test_answer_given_in_a_crowd_is_llamas(texts_in_a_crowd: dict[str, str], reference: Reference, prompt: str) -> None:
    gaps = reference.gaps_on_the_way(prompt, texts_in_a_crowd[prompt], N_TOKENS)
    assert all(gap <= MAX_TIE_GAP for gap in gaps), gaps


BEGINNING = (
    "You are a careful assistant of a small library by the sea. You answer in one short sentence, you never make up "
    "titles or authors, and when you do not know something you say so. The library opens at nine and closes at six, "
    "it is closed on Sundays, and its oldest book is an atlas from 1741 that nobody may take home.\n\n"
)
QUESTIONS = ("Q: When do you open?\nA:", "Q: What is your oldest book?\nA:", "Q: Are you open on Sundays?\nA:")


async def test_answers_behind_a_beginning_that_was_computed_once_are_llamas(
    worker: Worker, reference: Reference
) -> None:
    prompts = tuple(BEGINNING + question for question in QUESTIONS)
    async with worker.client() as client:
        before = await client.metrics()
        texts = await greedy_texts(worker, prompts, 12)
        after = await client.metrics()
    n_tokens = [len(reference.tokens(prompt)) for prompt in prompts]
    computed = after["prompt_tokens_total"] - before["prompt_tokens_total"]
    assert computed <= n_tokens[0] + sum(len(reference.tokens(question)) for question in QUESTIONS)
    for prompt, text in zip(prompts, texts, strict=True):
        gaps = reference.gaps_on_the_way(prompt, text, 12)
        assert all(gap <= MAX_TIE_GAP for gap in gaps), gaps
