"""What the cards hold now, by NVML."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pynvml


def read() -> list[dict[str, Any]] | None:
    """Name and memory of each card in bytes; None without a card or driver, which is the normal case on a CPU."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [_card(handle) for handle in handles] or None
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def held_by(pids: Collection[int]) -> int | None:
    """Bytes that these processes hold of all cards; None where the driver does not tell, as in most containers."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    held = []
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            processes = pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByIndex(index))
            held += [process.usedGpuMemory for process in processes if process.pid in pids]
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
    return None if not held or None in held else sum(held)


def _card(handle: object) -> dict[str, Any]:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    return {"name": name, "memory_used_bytes": int(memory.used), "memory_total_bytes": int(memory.total)}
