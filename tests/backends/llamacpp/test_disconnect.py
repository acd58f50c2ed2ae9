"""Clients that leave: their sequences are free before the next step, and nobody else notices."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.backends.llamacpp.worker import Client, events, until, user

TEXT = "/v1/completions"


def endless(prompt: str | list[int], **fields: Any) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": 900, "ignore_eos": True, "stream": True, **fields}


async def leave_after(client: Client, body: dict[str, Any], n_events: int) -> None:
    """Close the connection in the middle of a stream."""
    async with client.session.post(TEXT, json=body) as response:
        source = events(response)
        for _ in range(n_events):
            await anext(source)
        response.close()


async def test_disconnect_in_the_middle_of_a_stream_frees_the_sequence(client: Client) -> None:
    await leave_after(client, endless("Once upon a time"), 3)
    await until(client.is_idle)
    before = await client.metrics()
    await client.complete("1, 2, 3,", max_tokens=2, ignore_eos=True)
    assert (await client.metrics())["generation_tokens_total"] == before["generation_tokens_total"] + 2


async def test_disconnect_during_prefill_frees_the_sequence(client: Client) -> None:
    computed = (await client.metrics())["prompt_tokens_total"]

    async def is_prefilling() -> bool:
        return (await client.metrics())["requests_running"] > 0

    request = asyncio.create_task(client.stream(TEXT, endless(list(range(2000, 3000)))))
    await until(is_prefilling)
    request.cancel()
    await asyncio.wait({request})
    await until(client.is_idle)
    assert (await client.metrics())["prompt_tokens_total"] - computed < 1000


async def test_disconnect_of_an_answer_that_is_not_streamed_frees_the_sequence(client: Client) -> None:
    async def is_running() -> bool:
        return (await client.metrics())["requests_running"] == 2

    body = {"messages": [user("Tell me a story.")], "n": 2, "max_tokens": 900, "ignore_eos": True}
    request = asyncio.create_task(client.ok("/v1/chat/completions", body))
    await until(is_running)
    request.cancel()
    await asyncio.wait({request})
    await until(client.is_idle)


async def test_disconnect_of_one_leaves_the_others_undisturbed(client: Client) -> None:
    body = {"prompt": "1, 2, 3, 4,", "max_tokens": 16, "temperature": 0, "ignore_eos": True}
    expected = (await client.ok(TEXT, body))["choices"][0]["text"]
    leaving = [leave_after(client, endless(f"Story number {i}:"), 1 + i) for i in range(4)]
    async with asyncio.TaskGroup() as group:
        for left in leaving:
            group.create_task(left)
        staying = [group.create_task(client.stream(TEXT, body)) for _ in range(2)]
    one, other = (task.result() for task in staying)
    assert one.text() == other.text() == expected
    assert one.finish() == "length"
    await until(client.is_idle)


async def test_disconnect_in_the_queue_is_noticed(client: Client) -> None:
    async def are_waiting() -> bool:
        return (await client.metrics())["requests_waiting"] >= 4

    prompts = [f"{i}:" for i in range(20)]
    request = asyncio.create_task(client.ok(TEXT, {"prompt": prompts, "max_tokens": 900, "ignore_eos": True}))
    await until(are_waiting)
    request.cancel()
    await asyncio.wait({request})
    await until(client.is_idle)


@pytest.mark.parametrize("n_events", [1, 2])
async def test_connection_that_broke_is_no_error_in_the_log(client: Client, n_events: int) -> None:
    await leave_after(client, endless("Hello"), n_events)
    await until(client.is_idle)
    assert (await client.metrics())["failed_steps_total"] == 0
