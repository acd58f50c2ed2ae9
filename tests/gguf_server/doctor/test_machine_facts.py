"""What is read of a machine, where it has what this one may not have: a driver, cards, a toolkit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from backends.llamacpp_build import LlamaBuild
from gguf_server.doctor import machine_facts
from gguf_server.doctor.machine_facts import Card, Driver, look

GIB = 1 << 30


@pytest.fixture(autouse=True)
def _without_asking_for_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_facts, "ask_build", lambda: LlamaBuild(None))


@dataclass(frozen=True, slots=True)
class FakeCard:
    name: str
    n_gib: int
    capability: tuple[int, int] | None


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[FakeCard]:
    """A driver that works and sees these cards."""
    cards: list[FakeCard] = []

    def capability(card: FakeCard) -> tuple[int, int]:
        if card.capability is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return card.capability

    fakes = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetCudaDriverVersion": lambda: 12080,
        "nvmlSystemGetDriverVersion": lambda: "570.86",
        "nvmlDeviceGetCount": lambda: len(cards),
        "nvmlDeviceGetHandleByIndex": lambda index: cards[index],
        "nvmlDeviceGetMemoryInfo": lambda card: SimpleNamespace(total=card.n_gib * GIB, free=(card.n_gib - 1) * GIB),
        "nvmlDeviceGetName": lambda card: card.name,
        "nvmlDeviceGetCudaComputeCapability": capability,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(pynvml, name, fake)
    monkeypatch.setattr(machine_facts, "_n_pci_cards", lambda: 2)
    return cards


def fail_with(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise pynvml.NVMLError(code)

    monkeypatch.setattr(pynvml, "nvmlInit", fails)


def test_driver_and_cards_are_read(cards: list[FakeCard]) -> None:
    cards += [FakeCard("NVIDIA GeForce RTX 3060", 12, (8, 6)), FakeCard("NVIDIA Something", 4, None)]
    machine = look("0")
    assert machine.driver == Driver("working", "570.86", (12, 8), n_pci_cards=2)
    assert machine.cards == (
        Card(0, "NVIDIA GeForce RTX 3060", 12 * GIB, 11 * GIB, (8, 6)),
        Card(1, "NVIDIA Something", 4 * GIB, 3 * GIB, None),
    )
    assert machine.visible_cards == "0"


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "absent"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "absent"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "mismatched"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "forbidden"),
        (pynvml.NVML_ERROR_GPU_IS_LOST, "failing"),
    ],
)
def test_a_driver_that_does_not_work_says_why(code: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(code, monkeypatch)
    machine = look(None)
    assert (machine.driver.state, machine.cards) == (state, ())
    assert machine.driver.detail


def test_a_card_that_is_lost_while_it_is_looked_at_is_no_crash(
    cards: list[FakeCard], monkeypatch: pytest.MonkeyPatch
) -> None:
    cards.append(FakeCard("x", 8, None))

    def lost(card: FakeCard) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lost)
    assert look(None).driver.state == "failing"


def test_compiler_and_toolkit_are_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine_facts, "_TOOLKIT_PLACES", ())
    assert (look(None).compiler, look(None).toolkit) == (None, None)
    said = {"clang++": "clang version 17.0.6\nTarget: x", "nvcc": "Cuda compilation tools, release 12.9, V12.9.86"}
    for name, text in said.items():
        program(tmp_path / name, f"echo '{text}'")
    assert (look(None).compiler, look(None).toolkit) == ("clang version 17.0.6", (12, 9))
    program(tmp_path / "c++", "exit 1")
    program(tmp_path / "nvcc", "echo nothing of a release")
    assert (look(None).compiler, look(None).toolkit) == ("clang version 17.0.6", None)


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
