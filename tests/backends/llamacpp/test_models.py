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


BODY = {"messages": [user("Why is the sky blue?")], "max_tokens": 12, "temperature": 0, "ignore_eos": True}


async def test_what_follows_an_open_thought_is_all_reasoning(thinking: Client) -> None:
    answer = await thinking.ok(CHAT, BODY)
    message = answer["choices"][0]["message"]
    assert message["content"] == ""
    assert len(message["reasoning"]) > 10
    assert message["reasoning"] == message["reasoning_content"]
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_streamed_reasoning_is_the_whole_reasoning(thinking: Client) -> None:
    whole = (await thinking.ok(CHAT, BODY))["choices"][0]["message"]
    seen = await thinking.stream(CHAT, BODY)
    assert seen.text(key="content") == ""
    assert seen.text(key="reasoning") == seen.text(key="reasoning_content") == whole["reasoning"]
    assert len(seen.pieces(key="reasoning")) > 3


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
    assert message["content"] == ""
    assert message["reasoning"]


async def test_raw_completions_are_never_split(thinking: Client) -> None:
    answer = await thinking.complete("<think>\nLet me", max_tokens=6, temperature=0, ignore_eos=True)
    assert len(answer["choices"][0]["text"]) > 5
    assert set(answer["choices"][0]) == {"index", "text", "logprobs", "finish_reason"}
