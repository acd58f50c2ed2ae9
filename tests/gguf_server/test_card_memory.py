"""Waiting for a card's memory, with readings that a test makes up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from gguf_server.card_memory import CardMemory

GB = 10**9


def readings(*used_gb: float) -> Any:
    """A `read` that says one after the other of card 0, and the last for good; card 1 is always full."""
    rest: Iterator[float] = iter(used_gb)
    last = used_gb[-1]

    def read() -> list[dict[str, Any]]:
        used = next(rest, last)
        card = {"name": "card", "memory_used_bytes": int(used * GB), "memory_total_bytes": 16 * GB}
        return [card, {**card, "memory_used_bytes": 16 * GB}]

    return read


async def test_it_waits_until_no_more_is_used_than_before() -> None:
    memory = CardMemory(readings(1.0, 14.0, 9.0, 1.2, 99.0), 0, poll_s=0.001)
    await memory.note()
    async with asyncio.timeout(5):
        await memory.returned()


async def test_it_gives_up_after_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    memory = CardMemory(readings(1.0, 14.0), 0, limit_s=0.01, poll_s=0.001)
    await memory.note()
    await memory.returned()
    assert "card memory is not back" in capsys.readouterr().out


async def test_without_a_start_there_is_nothing_to_wait_for() -> None:
    await CardMemory(readings(14.0), 0).returned()


async def test_a_card_that_went_away_holds_nothing() -> None:
    memory = CardMemory(lambda: None, 3)
    await memory.note()
    await memory.returned()
