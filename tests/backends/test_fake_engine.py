"""The fake engine does what other tests rely on: words in order, and faults where they were armed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import aiohttp
import pytest

from tests.backends.fake_engine import command, numbered

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
USER = {"role": "user", "content": "Count, please."}
NUMBERS = ("--answer-words", "6", "--reasoning-words", "4")
START_S = 20.0


@contextmanager
def spawned(*flags: str) -> Iterator[tuple[Popen[bytes], str]]:
    """(process, socket) of an engine, which is killed at the end if it is still there."""
    environment = {name: value for name, value in os.environ.items() if name != "FAKE_ENGINE_KEY"}
    with tempfile.TemporaryDirectory(prefix="f") as folder:
        socket = str(Path(folder) / "s")
        with Popen(command("--uds", socket, *flags), env=environment) as process:
            try:
                yield process, socket
            finally:
                process.kill()


@asynccontextmanager
async def connected(socket: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A session, as soon as somebody listens."""
    connector = aiohttp.UnixConnector(socket, force_close=True)
    async with (
        aiohttp.ClientSession("http://fake", connector=connector, timeout=aiohttp.ClientTimeout(START_S)) as session,
        asyncio.timeout(3 * START_S),
    ):
        while True:
            try:
                async with session.get("/v1/models"):
                    break
            except (aiohttp.ClientConnectionError, FileNotFoundError):
                await asyncio.sleep(0.01)
        yield session


@pytest.fixture(scope="module")
def socket() -> Iterator[str]:
    with spawned(*NUMBERS) as (_, path):
        yield path


@pytest.fixture
async def engine(socket: str) -> AsyncIterator[aiohttp.ClientSession]:
    """An engine that counts, shared by the tests whose faults it survives; disarmed at the end."""
    async with connected(socket) as session:
        yield session
        await arm(session, kind="none")


async def post(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with session.post(path, json=body) as response:
        return response.status, await response.json()


async def arm(session: aiohttp.ClientSession, **fault: Any) -> None:
    assert await post(session, "/_fault", fault) == (200, {"armed": fault["kind"]})


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    async for line in response.content:
        if line != b"\n":
            yield line.decode(errors="replace").removeprefix("data: ").removesuffix("\n")


async def streamed(session: aiohttp.ClientSession, path: str = CHAT, **fields: Any) -> tuple[str, str, list[str]]:
    """Reasoning and content that arrived, and the events that had none, however the stream ended."""
    text, others = {"reasoning": "", "content": "", "text": ""}, []
    said = {"messages": [USER]} if path == CHAT else {"prompt": "Count:"}
    async with session.post(path, json={**said, "stream": True, **fields}) as response:
        assert response.status == 200
        try:
            async for event in events(response):
                words = words_of(event)
                if not words:
                    others.append(event)
                for channel, word in words.items():
                    text[channel] += word
        except aiohttp.ClientError:
            others.append("cut")
    return text["reasoning"], text["content"] or text["text"], others


def words_of(event: str) -> dict[str, str]:
    """Channel and word of an event, if it is one of those."""
    try:
        choice = json.loads(event)["choices"][0]
    except (ValueError, KeyError, IndexError):
        return {}
    delta = choice.get("delta", {"text": choice.get("text")})
    return {channel: word for channel, word in delta.items() if channel != "role" and word}


async def test_answer_is_a_thought_and_numbered_words_and_a_stream_says_the_same(engine: aiohttp.ClientSession) -> None:
    _, whole = await post(engine, CHAT, {"messages": [USER]})
    choice = whole["choices"][0]
    expected = {"role": "assistant", "reasoning": "r1 r2 r3 r4", "content": "w1 w2 w3 w4 w5 w6"}
    assert (choice["message"], choice["finish_reason"]) == (expected, "stop")
    assert whole["usage"] == {"prompt_tokens": 4, "completion_tokens": 10, "total_tokens": 14}
    reasoning, content, others = await streamed(engine, stream_options={"include_usage": True})
    assert (reasoning, content, others[-1]) == ("r1 r2 r3 r4", "w1 w2 w3 w4 w5 w6", "[DONE]")
    assert json.loads(others[-2])["usage"] == whole["usage"]
    assert json.loads(others[0])["choices"][0]["delta"] == {"role": "assistant", "content": ""}


@pytest.mark.parametrize("n_words", range(1, 10))
async def test_continued_chat_goes_on_behind_the_words_that_are_there(
    engine: aiohttp.ClientSession, n_words: int
) -> None:
    _, first = await post(engine, CHAT, {"messages": [USER], "max_tokens": n_words})
    assert first["choices"][0]["finish_reason"] == "length"
    begun = first["choices"][0]["message"]
    final = {"role": "assistant", "reasoning_content": begun["reasoning"], "content": begun["content"] or ""}
    continued = {"messages": [USER, final], "continue_final_message": True, "add_generation_prompt": False}
    _, second = await post(engine, CHAT, continued)
    rest = second["choices"][0]["message"]
    assert begun["reasoning"] + (rest["reasoning"] or "") == "".join(numbered("r", 4))
    assert (begun["content"] or "") + rest["content"] == "".join(numbered("w", 6))
    assert second["usage"]["completion_tokens"] == 10 - n_words
    assert (await post(engine, "/tokenize", continued))[1]["count"] == second["usage"]["prompt_tokens"] == 4 + n_words


async def test_text_completion_goes_on_behind_the_words_of_its_prompt(engine: aiohttp.ClientSession) -> None:
    assert (await streamed(engine, TEXT))[1] == "w1 w2 w3 w4 w5 w6"
    assert (await streamed(engine, TEXT, prompt="Count:w1 w2", max_tokens=3))[1] == " w3 w4 w5"
    _, answer = await post(engine, TEXT, {"prompt": "Count:w1 w2"})
    assert answer["choices"][0]["text"] == " w3 w4 w5 w6"
    assert (await post(engine, "/tokenize", {"prompt": "Count:w1 w2"}))[1]["count"] == answer["usage"]["prompt_tokens"]


async def n_steps(session: aiohttp.ClientSession) -> int:
    async with session.get("/metrics") as response:
        return int((await response.text()).split()[-1])


async def test_every_word_is_a_step(engine: aiohttp.ClientSession) -> None:
    before = await n_steps(engine)
    await streamed(engine)
    assert await n_steps(engine) == before + 10


@pytest.mark.parametrize(
    ("kind", "last"),
    [("garbage", ["\ufffd\ufffd\x00 what is this?", "cut"]), ("cut", ["cut"])],  # a line without end never arrives
    ids=["garbage", "cut"],
)
async def test_stream_breaks_off_after_the_words_it_was_armed_for(
    engine: aiohttp.ClientSession, kind: str, last: list[str]
) -> None:
    await arm(engine, kind=kind, after_words=5)
    reasoning, content, others = await streamed(engine)
    assert (reasoning, content, others[1:]) == ("r1 r2 r3 r4", "w1", last)
    assert await streamed(engine, max_tokens=4) == ("r1 r2 r3 r4", "", [others[0], *others_of_a_whole_stream("length")])
    await arm(engine, kind=kind)
    with pytest.raises((aiohttp.ClientPayloadError, json.JSONDecodeError, UnicodeDecodeError)):
        await post(engine, CHAT, {"messages": [USER]})


def others_of_a_whole_stream(finish_reason: str) -> list[str]:
    choice = {"index": 0, "delta": {}, "finish_reason": finish_reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
    return [json.dumps({**head, "choices": [choice]}), "[DONE]"]


async def test_fault_behind_the_head_leaves_the_role_and_no_word(engine: aiohttp.ClientSession) -> None:
    await arm(engine, kind="cut", after_role=True)
    reasoning, content, others = await streamed(engine)
    assert (reasoning, content) == ("", "")
    assert json.loads(others[0])["choices"][0]["delta"]["role"] == "assistant"
    assert others[-1] == "cut"


async def test_error_500_comes_instead_of_an_answer(engine: aiohttp.ClientSession) -> None:
    await arm(engine, kind="error_500")
    for fields in ({}, {"stream": True}):
        status, body = await post(engine, CHAT, {"messages": [USER], **fields})
        assert (status, body["error"]["code"]) == (500, 500)


@pytest.mark.parametrize("fault", [{"kind": "hang"}, {"kind": "slow", "s": 1000}])
async def test_stalled_stream_has_good_health_until_it_is_disarmed(
    engine: aiohttp.ClientSession, fault: dict[str, Any]
) -> None:
    await arm(engine, **fault, after_words=2)
    async with engine.post(CHAT, json={"messages": [USER], "stream": True}) as response:
        said = events(response)
        assert [words_of(await anext(said)) for _ in range(3)] == [{}, {"reasoning": "r1"}, {"reasoning": " r2"}]
        stalled_at = await n_steps(engine)
        async with engine.get("/health") as health:
            assert health.status == 200
        assert await n_steps(engine) == stalled_at
        await arm(engine, kind="none")
        assert words_of(await anext(said)) == {"reasoning": " r3"}


async def test_slow_start_is_ill_health_for_a_while(engine: aiohttp.ClientSession) -> None:
    await arm(engine, kind="slow_start", s=60)
    async with engine.get("/health") as health:
        assert health.status == 503
    await arm(engine, kind="slow_start", s=0)
    async with engine.get("/health") as health:
        assert health.status == 200


async def test_fault_that_nobody_knows_is_refused(engine: aiohttp.ClientSession) -> None:
    for fault in ({"kind": "flood"}, {"kind": "exit_at_load"}, {"when": "now"}):
        assert (await post(engine, "/_fault", fault))[0] == 400


@pytest.mark.parametrize(
    ("fault", "exit_code"),
    [({"kind": "exit", "code": 7}, 7), ({"kind": "exit", "code": -9}, -9), ({"kind": "kill"}, -signal.SIGKILL)],
    ids=str,
)
async def test_process_ends_in_the_middle_of_a_stream(fault: dict[str, Any], exit_code: int) -> None:
    with spawned(*NUMBERS, "--fault", json.dumps({**fault, "after_words": 6})) as (process, socket):
        async with connected(socket) as session:
            reasoning, content, others = await streamed(session)
        assert (reasoning, content, others[-1]) == ("r1 r2 r3 r4", "w1 w2", "cut")
        assert await asyncio.to_thread(process.wait, START_S) == exit_code


async def test_core_that_dies_says_so_and_the_process_ends_with_0() -> None:
    with spawned(*NUMBERS) as (process, socket):
        async with connected(socket) as session:
            await arm(session, kind="error_event", after_words=5, exit_after_s=None)
            _, content, others = await streamed(session)
            assert content == "w1"
            assert (json.loads(others[-2])["error"]["code"], others[-1]) == (500, "[DONE]")
            async with session.get("/health") as health:
                assert health.status == 503
            assert (await post(session, CHAT, {"messages": [USER]}))[0] == 500
        assert process.poll() is None
    with spawned("--fault", '{"kind": "error_event", "exit_after_s": 0.01}') as (process, socket):
        async with connected(socket) as session:
            assert (await post(session, CHAT, {"messages": [USER]}))[0] == 500
        assert await asyncio.to_thread(process.wait, START_S) == 0


async def test_stopped_process_says_nothing_until_it_is_continued() -> None:
    with spawned(*NUMBERS, "--token-s", "0.01") as (process, socket):
        async with connected(socket) as session:
            await arm(session, kind="stop", after_words=3)
            stream = asyncio.create_task(streamed(session))
            _, status = await asyncio.to_thread(os.waitpid, process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            assert not stream.done()
            process.send_signal(signal.SIGCONT)
            assert (await stream)[:2] == ("r1 r2 r3 r4", "w1 w2 w3 w4 w5 w6")


def test_fault_at_load_ends_it_before_it_listens() -> None:
    with spawned("--fault", '{"kind": "exit_at_load", "code": 3}') as (process, socket):
        assert process.wait(START_S) == 3
        assert not Path(socket).exists()


async def test_engine_that_hangs_still_ends_by_sigterm() -> None:
    with spawned("--fault", '{"kind": "hang", "after_role": true}') as (process, socket):
        async with connected(socket) as session, session.post(CHAT, json={"messages": [USER], "stream": True}):
            process.terminate()
            assert await asyncio.to_thread(process.wait, START_S) == 0
