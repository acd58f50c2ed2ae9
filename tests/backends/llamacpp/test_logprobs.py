"""How likely the model found its tokens, held against llama.cpp's own logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from backends.llamacpp.logprob_shapes import ChatLogprobs, TextLogprobs, joined
from backends.llamacpp.logprobs import LEAST_LOGPROB, RatedToken, rate
from tests.backends.llamacpp.reference import Reference, open_reference
from tests.backends.llamacpp.worker import Client, user

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
GREEDY: dict[str, Any] = {"temperature": 0}
PROMPT = "The capital of France is"
# Kernels differ a little by how many rows they compute: logits move, see `reference`.
TOLERANCE = 0.3


@pytest.mark.parametrize("n_vocab", [3, 1000, 50_000])
def test_rating_is_log_softmax(n_vocab: int) -> None:
    logits = np.random.default_rng(n_vocab).normal(0, 5, n_vocab).astype(np.float32)
    exact = logits.astype(np.float64)
    exact -= exact.max()
    exact -= np.log(np.exp(exact).sum())
    rated = rate(logits.copy(), 2, 20)
    assert rated.logprob == pytest.approx(exact[2], abs=1e-4)
    assert [token for token, _ in rated.top] == np.argsort(-exact)[:20].tolist()
    assert [logprob for _, logprob in rated.top] == pytest.approx(np.sort(exact)[::-1][:20], abs=1e-4)
    assert rate(logits.copy(), 2, 0).top == ()


def test_least_likely_token_has_a_number_that_json_can_say() -> None:
    rated = rate(np.array([0, -np.inf], np.float32), 1, 2)
    assert rated.logprob == LEAST_LOGPROB
    assert rated.top == ((0, 0.0), (1, LEAST_LOGPROB))


SPELLINGS = [b"<s>", b" H", b"\xe4\xbd", b"\xa0", b"x"]


def spell(token: int) -> bytes:
    return SPELLINGS[token]


def test_part_of_a_character_has_its_own_bytes() -> None:
    (entry,) = ChatLogprobs(spell).take([RatedToken(2, -1.0, ((4, -0.5), (2, -1.0)))])["content"]
    assert (entry["token"], entry["bytes"], entry["logprob"]) == ("�", [0xE4, 0xBD], -1.0)
    assert [top["token"] for top in entry["top_logprobs"]] == ["x", "�"]


def test_offsets_are_those_of_characters_that_are_shown() -> None:
    shape = TextLogprobs(spell, spell)
    prompt = shape.take_prompt(
        [RatedToken(0, None), RatedToken(1, -1.0), RatedToken(2, -1.0), RatedToken(3, -1.0)], "H你"
    )
    answer = shape.take([RatedToken(4, -1.0, ((1, -0.1),)), RatedToken(4, -3.0)])
    whole = joined([prompt, answer])
    assert whole is not None
    assert whole["text_offset"] == [0, 0, 1, 1, 2, 3]
    assert whole["token_logprobs"] == [None, -1.0, -1.0, -1.0, -1.0, -3.0]
    assert whole["top_logprobs"][0] is None
    assert whole["top_logprobs"][-2:] == [{"x": -1.0, " H": -0.1}, {"x": -3.0}]


@pytest.fixture(scope="module")
def reference() -> Iterator[Reference]:
    with open_reference() as reference:
        yield reference


def log_softmax(logits: Any) -> Any:
    exact = logits.astype(np.float64)
    exact -= exact.max()
    return exact - np.log(np.exp(exact).sum())


async def test_completion_rates_prompt_and_answer_as_llama_does(client: Client, reference: Reference) -> None:
    body = {"max_tokens": 6, "logprobs": 3, "echo": True, **GREEDY}
    (choice,) = (await client.complete(PROMPT, **body))["choices"]
    rated, text = choice["logprobs"], choice["text"]
    assert text.startswith(PROMPT)
    assert "".join(rated["tokens"]) == text
    assert rated["token_logprobs"][0] is rated["top_logprobs"][0] is None
    tokens = reference.tokens(PROMPT) + await client.tokens_of(text.removeprefix(PROMPT))
    assert len(tokens) == len(rated["tokens"])
    reference.llama.reset()
    for at in range(1, len(tokens)):
        reference.llama.eval([tokens[at - 1]])
        expected = log_softmax(reference.logits())
        assert rated["token_logprobs"][at] == pytest.approx(expected[tokens[at]], abs=TOLERANCE)
        assert max(rated["top_logprobs"][at].values()) == pytest.approx(expected.max(), abs=TOLERANCE)
        assert len(rated["top_logprobs"][at]) in (3, 4)
        assert rated["top_logprobs"][at][rated["tokens"][at]] == rated["token_logprobs"][at]
        assert text[rated["text_offset"][at] :].startswith(rated["tokens"][at])


async def test_rating_is_of_the_model_and_not_of_what_the_request_made_of_it(client: Client) -> None:
    (banana,) = await client.tokens_of(" banana")
    body = {"messages": [user("Hi")], "max_tokens": 3, "logprobs": True, "top_logprobs": 2}
    plain = (await client.ok(CHAT, {**body, **GREEDY}))["choices"][0]["logprobs"]["content"]
    forced = await client.ok(CHAT, {**body, "temperature": 2, "logit_bias": {str(banana): 100}})
    entries = forced["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in entries] == [" banana"] * 3
    assert entries[0]["logprob"] < -5
    for got, expected in zip(entries[0]["top_logprobs"], plain[0]["top_logprobs"], strict=True):
        assert got["token"] == expected["token"]
        assert got["logprob"] == pytest.approx(expected["logprob"], abs=TOLERANCE)


async def test_likeliest_are_a_part_of_all(client: Client) -> None:
    answer = await client.chat("Hi", max_tokens=8, logprobs=True, top_logprobs=20, **GREEDY)
    for entry in answer["choices"][0]["logprobs"]["content"]:
        logprobs = [top["logprob"] for top in entry["top_logprobs"]]
        assert len(logprobs) == 20
        assert logprobs == sorted(logprobs, reverse=True)
        assert 0.2 < sum(map(math.exp, logprobs)) <= 1.0001
        assert entry["logprob"] == logprobs[0]
        assert bytes(entry["bytes"]).decode("utf-8", "replace") == entry["token"]


@pytest.mark.parametrize("stop", [["zzz", "8, 9"], ["\n\n\n\n", "7, 8, 10", "0, 11"]])
@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_streamed_ratings_are_the_whole_ones_also_where_text_is_held_back(
    client: Client, path: str, stop: list[str] | None
) -> None:
    count = "Count from 1 to 20: 1, 2, 3, 4,"
    ask = {"prompt": count, "logprobs": 2} if path == TEXT else {"messages": [user(count)], "logprobs": True}
    body = {**ask, "max_tokens": 16, "stop": stop, **GREEDY}
    await client.ok(path, body)  # from now on the same of the prompt is found in the cache
    whole, seen = await client.ok(path, body), await client.stream(path, body)
    expected = whole["choices"][0]["logprobs"]
    got = joined(choice["logprobs"] for choice in seen.choices() if choice["logprobs"])
    assert got is not None
    entries = got["content"] if path == CHAT else got["tokens"]
    assert len(entries) == whole["usage"]["completion_tokens"]
    names = [entry["token"] for entry in entries] if path == CHAT else entries
    assert names == ([entry["token"] for entry in expected["content"]] if path == CHAT else expected["tokens"])
    if path == TEXT:
        assert got["text_offset"] == expected["text_offset"]


async def test_end_of_text_is_a_token_like_any_other(client: Client) -> None:
    answer = await client.chat("What is 2+2?", max_tokens=60, logprobs=True, **GREEDY)
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"]["content"][-1]["token"] == "<|im_end|>"
    assert len(choice["logprobs"]["content"]) == answer["usage"]["completion_tokens"]


async def test_nobody_gets_logprobs_who_did_not_ask(client: Client) -> None:
    assert (await client.chat("Hi", max_tokens=2))["choices"][0]["logprobs"] is None
    assert (await client.complete("Hi", max_tokens=2))["choices"][0]["logprobs"] is None
    rated = (await client.complete("Hi", max_tokens=2, logprobs=0))["choices"][0]["logprobs"]
    assert [len(top) for top in rated["top_logprobs"]] == [1, 1]


async def test_long_prompt_is_scored_in_pieces_and_as_often_as_it_is_sent(client: Client) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 15
    n_tokens = len(await client.tokens_of(text))
    assert n_tokens > 2 * 64
    await client.complete(text, max_tokens=1)  # what is in the cache has no logits
    body = {"max_tokens": 0, "echo": True, "logprobs": 1}
    first, second = [await client.complete(text, **body) for _ in range(2)]
    for answer in (first, second):
        (choice,) = answer["choices"]
        assert (choice["text"], choice["finish_reason"]) == (text, "length")
        assert answer["usage"]["completion_tokens"] == 0
        assert len(choice["logprobs"]["tokens"]) == n_tokens
        assert choice["logprobs"]["token_logprobs"][0] is None
    one, other = (answer["choices"][0]["logprobs"]["token_logprobs"][1:] for answer in (first, second))
    assert one == pytest.approx(other, abs=TOLERANCE)
    assert sum(one[-100:]) / 100 > sum(one[:20]) / 20, "what was said ten times before is likelier"
