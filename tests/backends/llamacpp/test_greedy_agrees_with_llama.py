"""Greedy answers are those of llama.cpp's own Python class, alone and in a full batch.

Kernels differ a little in what they compute (how many rows at once, flash attention or not: logits move by up to 0.4),
and where the two best tokens are nearly equal the choice may then fall either way. Each such place is looked up: the
worker's token must be the second best there, and short of the best by no more than `MAX_TIE_GAP`. Seen were none with
flash attention on both sides, and seven of 384 tokens, 0.01 to 0.18 apart, against a reference without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest

from tests.backends.llamacpp.worker import MODEL, Worker

N_TOKENS = 48
MAX_TIE_GAP = 0.3

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


@dataclass(frozen=True, slots=True)
class Reference:
    """`llama_cpp.Llama`, asked for one position at a time."""

    llama: llama_cpp.Llama

    def tokens(self, prompt: str) -> list[int]:
        found: list[int] = self.llama.tokenize(prompt.encode(), add_bos=False, special=True)
        return found

    def piece(self, token: int) -> bytes:
        raw: bytes = self.llama.detokenize([token])
        return raw

    def logits(self) -> npt.NDArray[np.float32]:
        """Of the token that was evaluated last."""
        row = llama_cpp.llama_get_logits_ith(self.llama.ctx, -1)
        return np.array(np.ctypeslib.as_array(row, (self.llama.n_vocab(),)))

    def gaps_on_the_way(self, prompt: str, text: str) -> list[float]:
        """Walk along `text`; the gap of every place where it leaves the best token for the second best."""
        self.llama.reset()
        self.llama.eval(self.tokens(prompt))
        rest, gaps = text.encode(), []
        for _ in range(N_TOKENS):
            logits = self.logits()
            second, best = (int(token) for token in np.argsort(logits)[-2:])
            token = best if self.goes_on(rest, best) else second
            assert self.goes_on(rest, token), f"{rest!r} begins with neither {self.piece(best)!r} nor the next"
            if token == second:
                gaps.append(float(logits[best] - logits[second]))
            if llama_cpp.llama_vocab_is_eog(llama_cpp.llama_model_get_vocab(self.llama.model), token):
                break
            rest = rest[len(self.piece(token)) :]
            self.llama.eval([token])
        assert len(rest) <= 3, "only a character that was never finished may be left"
        return gaps

    def goes_on(self, rest: bytes, token: int) -> bool:
        """Whether `rest` goes on with `token`. At its very end a part of a character is not shown."""
        piece = self.piece(token)
        if not rest:
            return piece.decode("utf-8", "ignore") == ""
        return rest.startswith(piece)


@pytest.fixture(scope="module")
def reference() -> Iterator[Reference]:
    llama = llama_cpp.Llama(
        str(MODEL), n_ctx=256, n_batch=128, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False
    )
    yield Reference(llama)
    llama.close()


async def greedy_texts(worker: Worker, prompts: tuple[str, ...]) -> list[str]:
    async with worker.client() as client:
        answers = (client.complete(prompt, max_tokens=N_TOKENS, temperature=0) for prompt in prompts)
        return [answer["choices"][0]["text"] for answer in await asyncio.gather(*answers)]


@pytest.fixture(scope="module")
def texts_in_a_crowd(worker: Worker) -> dict[str, str]:
    """Answers to every prompt from a batch of sixteen."""
    others = tuple(f"A list of {i} things:" for i in range(2, 10))
    return dict(zip(PROMPTS, asyncio.run(greedy_texts(worker, PROMPTS + others)), strict=False))


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_answer_given_alone_is_llamas(worker: Worker, reference: Reference, prompt: str) -> None:
    (text,) = await greedy_texts(worker, (prompt,))
    gaps = reference.gaps_on_the_way(prompt, text)
    assert all(gap <= MAX_TIE_GAP for gap in gaps), gaps


@pytest.mark.parametrize("prompt", PROMPTS)
def test_answer_given_in_a_crowd_is_llamas(texts_in_a_crowd: dict[str, str], reference: Reference, prompt: str) -> None:
    gaps = reference.gaps_on_the_way(prompt, texts_in_a_crowd[prompt])
    assert all(gap <= MAX_TIE_GAP for gap in gaps), gaps
