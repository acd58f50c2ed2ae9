"""What text completions have of their own: echo, suffix, the best of several; and ends of the vLLM kind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.llamacpp.bad_words import BadWords, bad_sequences
from backends.llamacpp.detokenizer import TextStream
from backends.llamacpp.native import Model
from tests.backends.llamacpp.worker import Client, Worker, started

TEXT = "/v1/completions"
GREEDY: dict[str, Any] = {"temperature": 0}
COUNT = "Count from 1 to 20: 1, 2, 3, 4,"


@pytest.mark.parametrize("stream", [False, True])
async def test_echo_stands_before_every_answer(client: Client, stream: bool) -> None:
    prompts = [COUNT, "Hà Nội <|im_end|> là"]
    body = {"prompt": prompts, "n": 2, "max_tokens": 4, **GREEDY}
    plain = [choice["text"] for choice in (await client.ok(TEXT, body))["choices"]]
    if stream:
        seen = await client.stream(TEXT, {**body, "echo": True})
        texts = [seen.text(i) for i in range(4)]
    else:
        texts = [choice["text"] for choice in (await client.ok(TEXT, {**body, "echo": True}))["choices"]]
    assert texts == [prompts[i // 2] + plain[i] for i in range(4)]


async def test_echo_of_token_ids_is_their_text(client: Client) -> None:
    ids = await client.tokens_of(COUNT)
    answer = await client.complete(ids, max_tokens=0, echo=True)
    assert answer["choices"][0] == {"index": 0, "text": COUNT, "logprobs": None, "finish_reason": "length"}
    assert answer["usage"]["prompt_tokens"] == len(ids)


async def test_streamed_score_of_a_prompt_comes_with_its_text(client: Client) -> None:
    seen = await client.stream(TEXT, {"prompt": COUNT, "max_tokens": 0, "echo": True, "logprobs": 0})
    first = seen.choices()[0]
    assert first["text"] == COUNT == "".join(first["logprobs"]["tokens"])
    assert seen.finish() == "length"


async def test_prompts_are_scored_beside_answers_of_others(client: Client) -> None:
    """Rows of logits are whose they are, in whatever order they were asked for."""
    text = "A long time ago in a galaxy far, far away there was a very small robot. " * 4
    score = {"max_tokens": 2, "echo": True, "logprobs": 0, **GREEDY}
    alone = await client.complete(text, **score)
    expected = await client.complete(COUNT, max_tokens=12, **GREEDY)
    crowd = await asyncio.gather(
        *(client.complete(COUNT, max_tokens=12, **GREEDY) for _ in range(2)),
        *(client.complete(text, **score) for _ in range(2)),
    )
    assert {answer["choices"][0]["text"] for answer in crowd[:2]} == {expected["choices"][0]["text"]}
    for answer in crowd[2:]:
        assert answer["choices"][0]["text"] == alone["choices"][0]["text"]
        got, wanted = (one["choices"][0]["logprobs"]["token_logprobs"][1:] for one in (answer, alone))
        assert np.abs(np.subtract(got, wanted)).max() < 0.5


async def test_best_of_several_is_the_likeliest(client: Client) -> None:
    body: dict[str, Any] = {"max_tokens": 8, "seed": 1, "logprobs": 0, "temperature": 1.5, "ignore_eos": True}
    every = await client.complete("Once upon a time", n=6, **body)
    best = await client.complete("Once upon a time", n=2, best_of=6, **body)
    assert best["usage"]["completion_tokens"] == 48
    means = {choice["text"]: np.mean(choice["logprobs"]["token_logprobs"]) for choice in every["choices"]}
    likeliest = sorted(means, key=lambda text: -means[text])
    assert [choice["index"] for choice in best["choices"]] == [0, 1]
    assert [choice["text"] for choice in best["choices"]] == likeliest[:2]
    body["logprobs"] = None
    (one,) = (await client.complete("Once upon a time", best_of=6, **body))["choices"]
    assert (one["text"], one["logprobs"]) == (likeliest[0], None)


async def test_sixteen_choices_are_given(client: Client) -> None:
    answer = await client.chat("Name a fruit.", n=16, max_tokens=2, seed=3, temperature=1.5)
    assert [choice["index"] for choice in answer["choices"]] == list(range(16))
    assert len({choice["message"]["content"] for choice in answer["choices"]}) > 1


FIM = {b"<jupyter_text>": b"<|fim_prefix|>", b"<jupyter_code>": b"<|fim_suffix|>", b"<empty_output>": b"<|fim_middle|>"}


@pytest.fixture(scope="module")
def filler(tmp_path_factory: pytest.TempPathFactory, model_bytes: bytes) -> Iterator[tuple[Worker, Path]]:
    """A model whose vocabulary has the tokens, though it never learned them."""
    path = tmp_path_factory.mktemp("model") / "fim.gguf"
    patched = model_bytes
    for old, new in FIM.items():
        patched = patched.replace(old, new, 1)
    path.write_bytes(patched)
    with started("--n-ctx", "256", model=path) as worker:
        yield worker, path


async def test_middle_is_filled_in_between_prefix_and_suffix(filler: tuple[Worker, Path]) -> None:
    worker, path = filler
    prefix, suffix = "def f(x):\n  <|im_end|>", "\n<|fim_middle|> return y"  # in which no control token is read
    model = Model(path, n_gpu_layers=0)
    pre, suf, mid = ([*model.tokenize(token.decode(), parse_special=True)] for token in FIM.values())
    tokens = [*pre, *model.tokenize(prefix), *suf, *model.tokenize(suffix), *mid]
    model.close()
    assert len(pre) == len(suf) == len(mid) == tokens.count(mid[0]) == 1
    body = {"max_tokens": 6, "ignore_eos": True, **GREEDY}
    async with worker.client() as client:
        expected = await client.complete(tokens, **body)
        filled = await client.complete(prefix, suffix=suffix, **body)
        of_ids = await client.complete(await client.tokens_of("def f(x):\n  ") + [2], suffix=suffix, **body)
        assert filled["choices"][0]["text"] == expected["choices"][0]["text"]
        assert filled["usage"]["prompt_tokens"] == expected["usage"]["prompt_tokens"] == len(tokens)
        assert of_ids["usage"]["prompt_tokens"] < len(tokens)


async def test_token_that_stops_is_not_shown_unless_asked_for(client: Client) -> None:
    (seven,) = await client.tokens_of("7")
    body: dict[str, Any] = {"max_tokens": 40, "stop_token_ids": [seven], **GREEDY}
    hidden = await client.complete(COUNT, **body)
    assert (hidden["choices"][0]["text"], hidden["choices"][0]["finish_reason"]) == (" 5, 6, ", "stop")
    shown = await client.complete(COUNT, include_stop_str_in_output=True, **body)
    assert shown["choices"][0]["text"] == " 5, 6, 7"
    by_text = await client.complete(COUNT, stop=" 7,", include_stop_str_in_output=True, max_tokens=40, **GREEDY)
    assert (by_text["choices"][0]["text"], by_text["choices"][0]["finish_reason"]) == (" 5, 6, 7,", "stop")


async def test_nothing_stops_an_answer_before_its_least_tokens(client: Client) -> None:
    (seven,) = await client.tokens_of("7")
    body: dict[str, Any] = {"max_tokens": 40, **GREEDY}
    plain = (await client.complete(COUNT, **body))["choices"][0]["text"]
    later = await client.complete(COUNT, stop=[" 7,", " 11"], min_tokens=12, **body)
    assert later["choices"][0]["text"] == plain[: plain.index(" 11")]
    kept = await client.complete(COUNT, stop_token_ids=[seven], min_tokens=12, **body)
    assert kept["usage"]["completion_tokens"] >= 12
    assert not kept["choices"][0]["text"].startswith(" 5, 6, 7")


def test_stop_string_that_ends_behind_the_least_tokens_counts() -> None:
    text = TextStream(["bc"])
    assert text.push(b"abca", may_stop=False) == "abca"
    assert text.push(b"xb", may_stop=False) == "x"
    assert text.push(b"cd") == ""
    assert text.stopped


async def test_control_tokens_are_shown_on_request(client: Client) -> None:
    (start,) = await client.tokens_of("<|im_start|>")
    body = {"max_tokens": 2, "logit_bias": {str(start): 100}, **GREEDY}
    assert (await client.complete("Hi", **body))["choices"][0]["text"] == ""
    shown = await client.complete("Hi", skip_special_tokens=False, **body)
    assert shown["choices"][0]["text"] == "<|im_start|>" * 2


async def test_bad_words_are_not_said(client: Client) -> None:
    body: dict[str, Any] = {"max_tokens": 20, **GREEDY}
    assert "Paris" in (await client.complete("The capital of France is", **body))["choices"][0]["text"]
    without = await client.complete("The capital of France is", bad_words=["Paris"], **body)
    assert "Paris" not in without["choices"][0]["text"]


def test_bad_word_of_several_tokens_is_kept_from_being_finished() -> None:
    bad = BadWords([(1, 2, 3), (2, 4)])
    for said, banned in [((), []), ((2,), [4]), ((1, 2), [3, 4]), ((5, 2), [4]), ((1, 2, 5), [])]:
        guide = BadWords(bad._sequences)
        for token in said:
            guide.accept(token, b"x")
        logits = np.zeros(6, np.float32)
        assert guide.is_idle is not bool(banned)
        guide.mask(logits)
        assert np.flatnonzero(np.isneginf(logits)).tolist() == banned


def test_bad_words_are_looked_for_at_the_beginning_and_behind_a_blank() -> None:
    assert bad_sequences(["a", " a"], lambda text: list(text.encode())) == ((97,), (32, 97))
