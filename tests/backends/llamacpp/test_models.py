"""Workers on models whose chat template is missing, broken, hostile, or one that thinks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.backends.llamacpp.worker import Client, Worker, started, user

CHAT = "/v1/chat/completions"
HOSTILE = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"
THINKING = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n<think>\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}
        {{- '\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""


@pytest.fixture(scope="module", params=["missing", "broken", "hostile"])
def bad_template(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model_without_template: Path
) -> Iterator[tuple[str, Path | None]]:
    """(what is to be said of it, its file)"""
    if request.param == "missing":
        yield "no chat template: use /v1/completions", None
        return
    path = tmp_path_factory.mktemp("template") / "chat.jinja"
    path.write_text("{% for %}" if request.param == "broken" else HOSTILE)
    yield "does not compile" if request.param == "broken" else "took longer than", path


@pytest.fixture(scope="module")
def bad_worker(bad_template: tuple[str, Path | None], model_without_template: Path) -> Iterator[tuple[Worker, str]]:
    said, path = bad_template
    flags = ["--chat-template-file", str(path)] if path else []
    with started("--n-ctx", "256", *flags, model=model_without_template) as worker:
        yield worker, said


async def test_chat_without_a_usable_template_is_refused_and_completions_go_on(bad_worker: tuple[Worker, str]) -> None:
    worker, said = bad_worker
    async with worker.client() as client:
        status, error = await client.error(CHAT, {"messages": [user("Hi")]})
        assert (status, error["code"], error["param"]) == (400, "chat_template_error", "messages")
        assert said in error["message"]
        answer = await client.complete("1, 2, 3, 4,", max_tokens=3, temperature=0)
        assert answer["choices"][0]["text"].startswith(" 5")


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    path = tmp_path_factory.mktemp("template") / "chat.jinja"
    path.write_text(THINKING)
    with started("--n-ctx", "256", "--reasoning-format", "think", "--chat-template-file", str(path)) as worker:
        yield worker


@pytest.fixture
async def thinking(thinker: Worker) -> AsyncIterator[Client]:
    async with thinker.client() as client:
        yield client


BODY = {"messages": [user("Why is the sky blue?")], "max_tokens": 40, "temperature": 0, "ignore_eos": True}


async def test_what_follows_an_open_thought_is_reasoning_until_it_is_closed_for_the_answer(thinking: Client) -> None:
    answer = await thinking.ok(CHAT, BODY)
    message = answer["choices"][0]["message"]
    assert len(message["reasoning"]) > 10
    assert message["reasoning"] == message["reasoning_content"]
    assert message["content"].strip()
    assert "think>" not in message["content"] + message["reasoning"]
    assert answer["choices"][0]["finish_reason"] == "length"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 40
    assert 40 - usage["completion_tokens_details"]["reasoning_tokens"] in range(16, 20)


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 4, 5, 6, 12, 20, 24, 100])
async def test_answer_is_never_empty_however_few_its_tokens(thinking: Client, max_tokens: int) -> None:
    answer = await thinking.ok(CHAT, {**BODY, "max_tokens": max_tokens})
    (choice,) = answer["choices"]
    assert choice["message"]["content"].strip()
    assert ("reasoning" in choice["message"]) is (max_tokens > 20)
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == max_tokens


async def test_streamed_reasoning_is_the_whole_reasoning(thinking: Client) -> None:
    whole = (await thinking.ok(CHAT, BODY))["choices"][0]["message"]
    seen = await thinking.stream(CHAT, {**BODY, "stream_options": {"include_usage": True}})
    assert seen.text(key="content") == whole["content"]
    assert seen.text(key="reasoning") == seen.text(key="reasoning_content") == whole["reasoning"]
    assert len(seen.pieces(key="reasoning")) > 3
    assert seen.chunks[-1]["usage"]["completion_tokens_details"]["reasoning_tokens"] > 3


async def test_budget_and_effort_bound_a_thought(thinking: Client) -> None:
    async def n_thought(**fields: object) -> int:
        answer = await thinking.ok(CHAT, {**BODY, "max_tokens": 60, **fields})
        assert answer["choices"][0]["message"]["content"].strip()
        return int(answer["usage"]["completion_tokens_details"]["reasoning_tokens"])

    free = await n_thought()
    assert free in range(36, 45)
    assert await n_thought(reasoning_effort="none") == 0
    assert await n_thought(thinking_token_budget=5) in range(6, 10)
    assert await n_thought(reasoning_effort="minimal") in range(7, 11)


async def test_reasoning_that_is_not_wanted_is_not_shown_in_any_way(thinking: Client) -> None:
    body = {**BODY, "logprobs": True}
    whole = await thinking.ok(CHAT, body)
    bare = await thinking.ok(CHAT, {**body, "include_reasoning": False})
    (choice,), (bare_choice,) = whole["choices"], bare["choices"]
    assert bare_choice["message"] == {"role": "assistant", "content": choice["message"]["content"]}
    assert bare["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"] == 40
    entries, bare_entries = choice["logprobs"]["content"], bare_choice["logprobs"]["content"]
    assert len(entries) == 40
    assert len(bare_entries) == 40 - whole["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert [entry["token"] for entry in bare_entries] == [entry["token"] for entry in entries[-len(bare_entries) :]]
    seen = await thinking.stream(CHAT, {**body, "include_reasoning": False})
    assert seen.text() == choice["message"]["content"]
    assert not seen.text(key="reasoning")


async def test_thinking_that_is_switched_off_leaves_all_to_the_answer(thinking: Client) -> None:
    for how in ({"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}):
        message = (await thinking.ok(CHAT, {**BODY, **how}))["choices"][0]["message"]
        assert "reasoning" not in message
        assert len(message["content"]) > 10


async def test_thought_that_closes_is_followed_by_the_answer(thinking: Client) -> None:
    said = {"role": "assistant", "content": "<think>\nThe sky\n</think>\n\nIt is"}
    body = {**BODY, "messages": [user("Why is the sky blue?"), said], "continue_final_message": True}
    message = (await thinking.ok(CHAT, body))["choices"][0]["message"]
    assert "reasoning" not in message
    assert message["content"]
    said["content"] = "<think>\nThe sky"
    message = (await thinking.ok(CHAT, body))["choices"][0]["message"]
    assert message["reasoning"]
    assert message["content"].strip()
    message = (await thinking.ok(CHAT, {**body, "max_tokens": 2}))["choices"][0]["message"]
    assert "reasoning" not in message
    assert message["content"].strip()


async def test_raw_completions_are_never_split(thinking: Client) -> None:
    answer = await thinking.complete("<think>\nLet me", max_tokens=6, temperature=0, ignore_eos=True)
    assert len(answer["choices"][0]["text"]) > 5
    assert set(answer["choices"][0]) == {"index", "text", "logprobs", "finish_reason"}
