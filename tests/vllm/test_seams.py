"""A stream in which vLLM dies goes on at llama.cpp, and a reader sees one answer."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.e2e.client import CHAT, COMPLETIONS, DONE, Json, checked_error, chunks, content_of, user
from tests.e2e.program import until
from tests.vllm.chains import LLAMACPP, VLLM, Chain
from tests.vllm.strikes import DEATHS, N_TOKENS, STORY, Strike, kill_engine_core, story

LINES = ("Người Việt ở Huế.\n", "你好，世界。\n")


def struck(chain: Chain, path: str, body: Json, strike: Strike, *, after: int = 12) -> list[Json]:
    """The chunks of a stream during which vLLM is struck. It has to end as if nothing had been."""
    with chain.client.stream(path, {**body, "stream_options": {"include_usage": True}}) as (response, found):
        assert response.status_code == 200, response.text
        assert response.headers["x-engine"] == VLLM
        first = [next(found) for _ in range(after)]
        strike(chain)
        return chunks([*first, *found])


def split_at_seam(found: list[Json]) -> tuple[list[Json], list[Json]]:
    """What vLLM sent and what llama.cpp did, which says so in its first chunk."""
    (seam,) = (i for i, chunk in enumerate(found) if "x_engine" in chunk)
    assert (found[seam]["x_engine"], found[seam]["x_engine_failovers"]) == (LLAMACPP, 1)
    return found[:seam], found[seam:]


def check_seams(found: list[Json]) -> None:
    """One answer to whoever reads it: one id, one role, one end, a usage that counts all of it."""
    assert len({chunk["id"] for chunk in found}) == 1
    assert len({chunk["created"] for chunk in found}) == 1
    choices = [choice for chunk in found for choice in chunk["choices"]]
    assert sum("role" in choice.get("delta", {}) for choice in choices) <= 1
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
    usage = found[-1]["usage"]
    assert abs(usage["completion_tokens"] - N_TOKENS) <= 1
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def text_of(found: list[Json]) -> str:
    return "".join(choice["text"] for chunk in found for choice in chunk["choices"])


def reasoning_of(found: list[Json]) -> str:
    deltas = (choice["delta"] for chunk in found for choice in chunk["choices"])
    return "".join(delta.get("reasoning_content") or "" for delta in deltas)


@pytest.mark.parametrize("strike", DEATHS)
def test_running_stream_goes_on_to_its_end(mortal: Chain, strike: Strike) -> None:
    undisturbed = chunks(mortal.client.streamed(CHAT, story(stream_options={"include_usage": True})))
    processes = mortal.processes_of_vllm()
    found = struck(mortal, CHAT, story(), strike)

    check_seams(found)
    before, after = split_at_seam(found)
    said, rest = content_of(before), content_of(after)
    assert content_of(undisturbed).startswith(said)
    assert found[-1]["usage"]["prompt_tokens"] == undisturbed[-1]["usage"]["prompt_tokens"]
    assert len(said) > 20
    assert len(rest) > 20
    asked = {"messages": [user(STORY), {"role": "assistant", "content": said}], "continue_final_message": True}
    continued = mortal.client.post(CHAT, {**story(stream=False), **asked})
    assert continued.headers["x-engine"] == LLAMACPP
    assert continued.json()["choices"][0]["message"]["content"].startswith(rest[:40])
    _, left = psutil.wait_procs(list(processes.values()), timeout=20)
    assert not left


def test_thought_that_broke_off_is_thought_to_its_end(mortal: Chain) -> None:
    found = struck(mortal, CHAT, story(enable_thinking=True), kill_engine_core)
    check_seams(found)
    before, after = split_at_seam(found)
    assert len(reasoning_of(before)) > 20
    assert len(reasoning_of(after)) > 20
    assert not content_of(before)


def test_answer_after_a_thought_goes_on_as_an_answer(mortal: Chain) -> None:
    asked = story(enable_thinking=True, thinking_token_budget=6, min_tokens=N_TOKENS)
    found = struck(mortal, CHAT, asked, kill_engine_core, after=24)
    check_seams(found)
    before, after = split_at_seam(found)
    assert reasoning_of(before)
    assert content_of(before)
    assert not reasoning_of(after)
    assert content_of(after)


@pytest.mark.parametrize("line", LINES, ids=["vi", "zh"])
def test_no_character_is_lost_or_doubled_at_the_seam(mortal: Chain, line: str) -> None:
    """Both engines repeat what they have read often enough, so every character is known."""
    asked = {"prompt": line * 12, "max_tokens": N_TOKENS, "ignore_eos": True, "stream": True}
    found = struck(mortal, COMPLETIONS, asked, kill_engine_core)
    check_seams(found)
    before, after = split_at_seam(found)
    assert text_of(before)
    assert len(text_of(after)) > 20
    assert (line * N_TOKENS).startswith(text_of(found).rstrip("\ufffd"))  # the budget may end inside a character


def test_every_running_stream_goes_on(mortal: Chain) -> None:
    def tell(animal: str) -> list[Json]:
        asked = story(messages=[user(f"Tell me a long story about a {animal}.")])
        return chunks(mortal.client.streamed(CHAT, {**asked, "stream_options": {"include_usage": True}}))

    with ThreadPoolExecutor() as threads, mortal.client.stream(CHAT, story(max_tokens=400)) as (_, running):
        next(running)
        others = [threads.submit(tell, animal) for animal in ("dog", "cat", "bear")]
        until(lambda: mortal.status()["queue"]["running"] == 4, what="all four running")
        for _ in range(16):
            next(running)
        kill_engine_core(mortal)
        for other in others:
            check_seams(other.result())
        *_, last, done = running
    assert done == DONE
    assert json.loads(last)["choices"][0]["finish_reason"] == "length"


def test_tool_call_that_broke_off_ends_with_an_error(mortal: Chain) -> None:
    city = {"type": "string", "minLength": 300, "maxLength": 400}
    parameters = {"type": "object", "properties": {"city": city}, "required": ["city"], "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "weather", "strict": True, "parameters": parameters}}
    asked = story(tools=[tool], tool_choice="required", max_tokens=400)
    with mortal.client.stream(CHAT, asked) as (_, found):
        first = [next(found) for _ in range(6)]
        kill_engine_core(mortal)
        *_, last, done = [*first, *found]
    assert done == DONE
    assert checked_error(json.loads(last))["code"] == "engine_failed"
