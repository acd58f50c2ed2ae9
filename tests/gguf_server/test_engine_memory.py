"""What is free before a load and held after it, with cards and a driver that a test makes up."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from gguf_server import gpus
from gguf_server.engine_memory import EngineMemory
from gguf_server.planning import CardSeen

GB = 10**9


class Cards:
    """Two of 12 GB."""

    def __init__(self, *used_gb: float) -> None:
        self.used_gb = list(used_gb)

    def read(self) -> list[dict[str, Any]]:
        return [
            {"name": f"card {i}", "memory_used_bytes": int(used * GB), "memory_total_bytes": 12 * GB}
            for i, used in enumerate(self.used_gb)
        ]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[SimpleNamespace]]:
    """NVML with one card; what is put in is what runs there."""
    running: dict[int, list[SimpleNamespace]] = {0: []}
    for name, does in {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(running),
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: running[handle],
    }.items():
        monkeypatch.setattr(pynvml, name, does)
    return running


def process(pid: int, held_gb: float | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=None if held_gb is None else int(held_gb * GB))


@pytest.mark.parametrize(("index", "free_gb", "names"), [(1, 8, ["card 1"]), (None, 18, ["card 0", "card 1"])])
def test_room_is_that_of_its_card_or_of_all(index: int | None, free_gb: int, names: list[str]) -> None:
    room = EngineMemory(Cards(2, 4).read, index).room()
    assert room.gpu_free_bytes == free_gb * GB
    assert room.cards == tuple(CardSeen(name, 12 * GB) for name in names)
    assert room.host_free_bytes is not None


@pytest.mark.parametrize(("read", "index"), [(None, None), (lambda: None, None), (Cards(2).read, 3)])
def test_without_a_card_nothing_is_known_of_one(read: Any, index: int | None) -> None:
    memory = EngineMemory(read, index)
    room, held = memory.room(), memory.held(os.getpid())
    assert (room.gpu_free_bytes, room.cards, held.gpu_bytes) == (None, (), None)
    assert held.host_bytes is not None


def test_where_the_driver_names_owners_only_the_engines_own_counts(driver: dict[int, list[SimpleNamespace]]) -> None:
    cards = Cards(2)
    memory = EngineMemory(cards.read, 0)
    memory.room()
    cards.used_gb = [11]
    driver[0] = [process(os.getpid(), 5), process(1, 4)]
    assert memory.held(os.getpid()).gpu_bytes == 5 * GB


@pytest.mark.parametrize("running", [[], [process(os.getpid(), None)], [process(1, 4)]])
def test_elsewhere_it_is_what_the_card_holds_more_than_before(
    running: list[SimpleNamespace], driver: dict[int, list[SimpleNamespace]]
) -> None:
    cards = Cards(2)
    memory = EngineMemory(cards.read, 0)
    memory.room()
    cards.used_gb = [11]
    driver[0] = running
    assert memory.held(os.getpid()).gpu_bytes == 9 * GB


def test_without_a_driver_nobody_is_named() -> None:
    assert gpus.held_by([os.getpid()]) is None
