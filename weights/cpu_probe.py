"""How fast this machine's processor reads memory and multiplies, measured in a third of a second, as a `Card`.

Other work on the machine slows it down, as it would slow an engine down: the best of several tries counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Final

import numpy as np
import numpy.typing as npt

from weights.cards import Card

Float32Array = npt.NDArray[np.float32]

_READ_BYTES: Final = 64 << 20  # for each thread, more than its share of the caches
_LEAST_READ_BYTES: Final = 8 << 20  # less may be read from the caches
_ALL_READ_BYTES: Final = 1 << 30
_N_MATRICES, _WIDTH = 512, 48  # so small that BLAS leaves each to one thread
_TRIED_S: Final = 0.15  # for each of the two
_LEAST_TRIES: Final = 3


@cache
def measure(n_threads: int | None = None) -> Card:
    """The processor with so many threads, all it may run on by default. Blocks; measured once in a process."""
    n_threads = n_threads or n_usable_threads()
    with ThreadPoolExecutor(n_threads) as threads:
        n_read = n_read_bytes(n_threads)
        n_bytes_per_s = _rate(threads, n_read, [_reader(n_read) for _ in range(n_threads)])
        n_flops_per_s = _rate(threads, 2 * _N_MATRICES * _WIDTH**3, [_multiplier() for _ in range(n_threads)])
    return Card(
        key="cpu",
        name=f"this machine's processor, {n_threads} thread{'s' if n_threads > 1 else ''}",
        family="cpu",
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        bandwidth_bytes_per_s=n_bytes_per_s,
        tensor_flops_per_s=n_flops_per_s,
        int8_ops_per_s=n_flops_per_s,
        compute_capability=None,
        nvml_names=(),
        source="measured here: reading memory and multiplying matrices in float32 with numpy",
    )


def n_usable_threads() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def n_read_bytes(n_threads: int) -> int:
    """What each of so many threads reads: 1 GiB together at most, unless that is less than 8 MiB for each."""
    return max(_LEAST_READ_BYTES, min(_READ_BYTES, _ALL_READ_BYTES // n_threads))


def _rate(threads: ThreadPoolExecutor, n_units: int, works: Sequence[Callable[[], object]]) -> float:
    """Units that all threads do in a second, when each does `n_units` a turn."""
    best_s, ends_at, n_tries = float("inf"), time.perf_counter() + _TRIED_S, 0
    while n_tries < _LEAST_TRIES or time.perf_counter() < ends_at:
        started = time.perf_counter()
        list(threads.map(lambda work: work(), works))
        best_s = min(best_s, time.perf_counter() - started)
        n_tries += 1
    return len(works) * n_units / best_s


def _reader(n_bytes: int) -> Callable[[], object]:
    numbers: Float32Array = np.ones(n_bytes // 4, np.float32)
    return numbers.max


def _multiplier() -> Callable[[], object]:
    matrices: Float32Array = np.ones((_N_MATRICES, _WIDTH, _WIDTH), np.float32)
    return partial(np.matmul, matrices, matrices, out=np.empty_like(matrices))
