"""What NVIDIA's driver tells of its cards: names, memory in use, energy. No driver is the normal case elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pynvml

CardError = pynvml.NVMLError


@dataclass(frozen=True, slots=True)
class Card:
    """`driver` is the version of the driver, `cuda` the newest CUDA it can run."""

    index: int
    name: str
    memory_bytes: int
    driver: str
    cuda: str
    power_limit_w: float | None = None


@dataclass(slots=True)
class Gpus:
    """The cards that a server computes on, by NVML. What a card does not tell is None."""

    handles: dict[int, Any] = field(default_factory=dict)

    def cards(self) -> list[Card]:
        driver = _text(pynvml.nvmlSystemGetDriverVersion()) if self.handles else ""
        version = int(pynvml.nvmlSystemGetCudaDriverVersion_v2()) if self.handles else 0
        cuda = f"{version // 1000}.{version % 1000 // 10}"
        return [
            Card(
                index,
                _text(pynvml.nvmlDeviceGetName(handle)),
                int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
                driver,
                cuda,
                _power_limit_w(handle),
            )
            for index, handle in self.handles.items()
        ]

    def bytes_of(self, pids: Set[int]) -> int:
        """In use on all cards by these processes; 0 as well where the driver does not tell processes apart."""
        return sum(_bytes_of(handle, pids) for handle in self.handles.values())

    def bytes_of_all(self) -> int:
        """In use on all cards by whomever."""
        return sum(int(pynvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in self.handles.values())

    def power_w(self) -> float | None:
        """Of all cards together at this moment."""
        try:
            powers = [pynvml.nvmlDeviceGetPowerUsage(handle) / 1000 for handle in self.handles.values()]
        except pynvml.NVMLError:
            return None
        return sum(powers) if powers else None

    def energy_j(self) -> float | None:
        """Of all cards together since the driver was loaded."""
        try:
            energies = [pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000 for handle in self.handles.values()]
        except pynvml.NVMLError:
            return None
        return sum(energies) if energies else None


def _power_limit_w(handle: Any) -> float | None:
    try:
        return float(pynvml.nvmlDeviceGetEnforcedPowerLimit(handle)) / 1000
    except pynvml.NVMLError:
        return None


def _bytes_of(handle: Any, pids: Set[int]) -> int:
    with suppress(pynvml.NVMLError):
        return sum(
            int(process.usedGpuMemory or 0)
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
            if process.pid in pids
        )
    return 0


def _text(said: str | bytes) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else said


@contextmanager
def gpus(indices: Set[int] | None = None) -> Iterator[Gpus]:
    """The cards with these numbers, or all; none where there is no driver.

    Raises `LookupError` for a number that no card has.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        if indices:
            raise LookupError("no card can be looked at: NVIDIA's driver is not there or does not answer") from None
        yield Gpus()
        return
    try:
        present = range(int(pynvml.nvmlDeviceGetCount()))
        if missing := (indices or set()) - set(present):
            raise LookupError(f"there is no card {min(missing)}: the driver knows {len(present)}")
        chosen = sorted(present if indices is None else indices)
        yield Gpus({index: pynvml.nvmlDeviceGetHandleByIndex(index) for index in chosen})
    finally:
        pynvml.nvmlShutdown()
