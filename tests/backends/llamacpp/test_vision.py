"""Models that see, each a tiny one of `tests.models` with its image encoder, in a real worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.backends.llamacpp.pictures import asks, file_of, noise, png, url_of
from tests.backends.llamacpp.seeing_reference import MARKER, SeeingReference
from tests.backends.llamacpp.worker import Client, Worker, assistant, failing_run, started, until, user

CHAT = "/v1/chat/completions"
N_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Seeing:
    worker: Worker
    reference: SeeingReference


@pytest.fixture(scope="module", params=["gemma3", "gemma4", "qwen2vl", "qwen2vl in a pool"])
def seeing(request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]) -> Iterator[Seeing]:
    """The worker's batches are smaller than an image may be where its tokens can be computed bit by bit."""
    name, _, pool = request.param.partition(" ")
    text, mmproj = tiny_model(name), tiny_model(f"{name}-mmproj")
    n_batch, n_cells = "64" if name == "qwen2vl" else "128", "4096" if pool else "8192"
    flags = ("--n-ctx", "2048", "--n-parallel", "4", "--n-batch", n_batch, "--n-ctx-total", n_cells)
    with started("--mmproj", str(mmproj), *flags, model=text) as worker:
        reference = SeeingReference(text, mmproj)
        yield Seeing(worker, reference)
        reference.close()


@pytest.fixture
async def client(seeing: Seeing) -> AsyncIterator[Client]:
    async with seeing.worker.client() as client:
        yield client


async def answer(client: Client, *messages: dict[str, Any], **fields: Any) -> tuple[str, dict[str, Any]]:
    """Text and usage, greedy and of `N_TOKENS` tokens."""
    body = {"messages": messages, "temperature": 0, "max_tokens": N_TOKENS, "ignore_eos": True, **fields}
    whole = await client.ok(CHAT, body)
    return whole["choices"][0]["message"]["content"], whole["usage"]


async def prompt_of(client: Client, *messages: dict[str, Any]) -> str:
    """The rendered prompt with a marker for each image."""

    def plain(content: str | list[dict[str, Any]]) -> str:
        return content if isinstance(content, str) else "".join(part.get("text", "@@") for part in content)

    texts = [{**message, "content": plain(message["content"])} for message in messages]
    tokens = (await client.ok("/tokenize", {"messages": texts}))["tokens"]
    prompt: str = (await client.ok("/detokenize", {"tokens": tokens}))["prompt"]
    return prompt.replace("@@", MARKER)


async def test_images_are_read_as_llama_cpp_itself_reads_them(seeing: Seeing, client: Client) -> None:
    first, second = (100, 80, 48), (101, 200, 136)
    message = asks("what is ", png(*first), " and ", png(*second), " here")
    text, usage = await answer(client, message)
    prompt = await prompt_of(client, message)
    n_prompt = seeing.reference.follow(prompt, [noise(*first), noise(*second)], text)
    assert n_prompt == usage["prompt_tokens"]


async def test_another_image_gets_another_answer_and_the_same_the_same(client: Client) -> None:
    texts = [(await answer(client, asks("see ", png(seed), " and say")))[0] for seed in (1, 2, 1)]
    assert texts[0] == texts[2] != texts[1]


async def test_an_image_is_encoded_once(client: Client) -> None:
    await answer(client, asks("first ", png(30), " then"))  # one after another: what a test before left is encoded too
    before = await client.metrics()
    question = asks("the ", png(3), " is")
    await asyncio.gather(*(answer(client, question) for _ in range(3)))
    await answer(client, asks("another ", png(3), " word"), logit_bias={"300": 1})
    after = await client.metrics()
    assert after["images_encoded_total"] - before["images_encoded_total"] == 1
    assert after["images_reused_total"] - before["images_reused_total"] >= 1


async def test_next_turn_goes_on_from_the_cells_of_the_first_and_of_its_image(seeing: Seeing, client: Client) -> None:
    image = (4, 128, 128)
    question = asks("what is in ", png(*image), " this")
    said, usage = await answer(client, question)
    turns = (question, assistant(said), user("why is that"))
    text, later = await answer(client, *turns)
    assert later["prompt_tokens_details"]["cached_tokens"] >= usage["prompt_tokens"] - 16
    seeing.reference.follow(await prompt_of(client, *turns), [noise(*image)], text)


async def test_many_who_ask_about_one_image_compute_it_once(seeing: Seeing, client: Client) -> None:
    image = (20, 128, 128)
    questions = [asks("here is ", png(*image), f" and the {word}") for word in ("sky", "city", "number")]
    before = await client.metrics()
    answers = await asyncio.gather(*(answer(client, question) for question in questions))
    computed = (await client.metrics())["prompt_tokens_total"] - before["prompt_tokens_total"]
    assert computed < 2 * answers[0][1]["prompt_tokens"]
    for question, (text, _) in zip(questions, answers, strict=True):
        seeing.reference.follow(await prompt_of(client, question), [noise(*image)], text)


async def test_texts_of_others_go_on_beside_images(seeing: Seeing, client: Client) -> None:
    texts = ["the sky is blue", "people say that", "count to four"]
    alone = [(await answer(client, user(text)))[0] for text in texts]
    looking = [answer(client, asks(f"{seed} ", png(seed, 160, 176), png(seed + 50), " go on")) for seed in (10, 11, 12)]
    *beside, _, _, seen = await asyncio.gather(*(answer(client, user(text)) for text in texts), *looking)
    assert [text for text, _ in beside] == alone
    prompt = await prompt_of(client, asks("12 ", png(12, 160, 176), png(62), " go on"))
    seeing.reference.follow(prompt, [noise(12, 160, 176), noise(62)], seen[0])


async def test_tokens_of_a_prompt_with_an_image_are_counted_as_they_are_used(client: Client) -> None:
    message = asks("what ", png(5), " is")
    counted = await client.ok("/tokenize", {"messages": [message], "return_token_strs": True})
    _, usage = await answer(client, message)
    assert counted["count"] == usage["prompt_tokens"]
    assert 0 < len(counted["tokens"]) < counted["count"]
    assert min(counted["tokens"]) >= 0
    assert len(counted["token_strs"]) == len(counted["tokens"])


async def test_an_image_streams_and_takes_part_in_penalties_of_nothing(client: Client) -> None:
    fields = {"repetition_penalty": 1.3, "presence_penalty": 0.5, "temperature": 0.8, "seed": 1, "n": 2}
    body = {"messages": [asks(png(6))], "max_tokens": 8, "ignore_eos": True, **fields}
    seen = await client.stream(CHAT, body)
    assert seen.finish(0) == seen.finish(1) == "length"


@pytest.mark.parametrize("seeing", ["qwen2vl"], indirect=True)
async def test_client_that_leaves_while_its_image_is_encoded_leaves_nothing_to_do(client: Client) -> None:
    async def n_encoding() -> float:
        return (await client.metrics())["images_encoding"]

    async def is_encoding() -> bool:
        return await n_encoding() == 1

    async def is_done() -> bool:
        return await n_encoding() == 0

    large = url_of(file_of(noise(7, 40, 40).resize((640, 640))))
    before = await client.metrics()
    leaving = asyncio.create_task(client.post(CHAT, {"messages": [asks("see ", large)]}))
    await until(is_encoding)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await until(is_done)
    await answer(client, user("still there"), max_tokens=1)
    await until(client.is_idle)
    assert (await client.metrics())["generation_tokens_total"] == before["generation_tokens_total"] + 1


@pytest.mark.parametrize("part", [{"type": "input_image", "image_url": png(8)}, {"type": "image", "image": png(8)}])
async def test_other_spellings_of_an_image_are_understood(client: Client, part: dict[str, Any]) -> None:
    expected, _ = await answer(client, asks("say ", png(8)))
    text, _ = await answer(client, {"role": "user", "content": [{"type": "text", "text": "say "}, part]})
    assert text == expected


def test_an_encoder_of_another_kind_is_told_at_the_start(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    text = tiny_model("qwen2vl")
    code, said = failing_run("--mmproj", str(text), model=text)
    assert code == 3
    assert "ENGINE_FAILURE" in said
    code, said = failing_run("--mmproj", str(tmp_path / "none.gguf"), model=text)
    assert (code, "weights_missing" in said) == (3, True)


def test_a_template_of_parts_is_given_parts(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_text(
        "{% for m in messages %}{{ m.role }}:{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}"
        "{% endfor %}{% endfor %}"
    )
    flags = ("--mmproj", str(tiny_model("qwen2vl-mmproj")), "--n-ctx", "256", "--chat-template-file", str(path))

    async def around_the_image(worker: Worker) -> str:
        async with worker.client() as client:
            seen = await client.ok("/tokenize", {"messages": [asks("what is ", png(1), " here")]})
            prompt: str = (await client.ok("/detokenize", {"tokens": seen["tokens"]}))["prompt"]
            return prompt

    with started(*flags, model=tiny_model("qwen2vl")) as worker:
        assert asyncio.run(around_the_image(worker)) == "user:what is <|vision_start|><|vision_end|> here"


LIMITS = ("--images-per-prompt", "2", "--image-max-bytes", "20000", "--image-max-pixels", "10000")


@pytest.fixture(scope="module")
def careful(tiny_model: Callable[[str], Path]) -> Iterator[Worker]:
    """A worker with narrow limits."""
    flags = ("--mmproj", str(tiny_model("gemma4-mmproj")), "--n-ctx", "256", "--n-parallel", "1", *LIMITS)
    with started(*flags, model=tiny_model("gemma4")) as worker:
        yield worker


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([png(1, 64, 64)] * 3, "too_many_images"),
        ([png(1, 101, 100)], "image_too_large"),
        ([png(1, 90, 90)], "image_too_large"),
        (["data:image/png;base64,c2VjcmV0"], "unsupported_image"),
        (["data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA7"], "unsupported_image"),
        (["data:text/plain;base64,c2VjcmV0"], "unsupported_image"),
        (["http://127.0.0.1:1/secret.png"], "remote_image_refused"),
        (["https://secret.example/a.png"], "remote_image_refused"),
        ([png(1, 64, 64), png(2, 64, 64)], "context_length_exceeded"),
    ],
)
async def test_hostile_images_are_refused_without_a_word_of_theirs(
    careful: Worker, parts: list[str], code: str
) -> None:
    async with careful.client() as client:
        status, error = await client.error(CHAT, {"messages": [asks("see ", *parts, "x " * 40)]})
        assert (status, error["code"]) == (400, code)
        assert error["param"] == ("prompt" if code == "context_length_exceeded" else "messages")
        assert "secret" not in error["message"]
        assert (await client.metrics())["images_encoded_total"] == 0
    assert "secret" not in careful.log.read_text()
