"""Memory and power of a server while it works, looked at from a thread of its own at a steady pace."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import psutil

from bench.measuring.gpus import CardError, Gpus, gpus
from bench.measuring.load import Clock
from bench.servers.processes import family

_LOOKS_PER_FAMILY: Final = 10
"""A server's children are looked for only so often: the whole process table is read for it."""


@dataclass(frozen=True, slots=True)
class Probes:
    """What to look at: the process tree of `pid`, and these cards (None: all that there are)."""

    pid: int | None = None
    cards: frozenset[int] | None = frozenset()
    interval_s: float = 0.25


@dataclass(frozen=True, slots=True)
class Look:
    """`t_s` counts from the first look. Memory is that of the whole process tree; 0 where nothing is looked at.

    `rss_bytes` counts pages that processes share once for each of them. `gpu_own_bytes` is 0 where the driver does
    not tell processes apart; `gpu_all_bytes` is what everybody uses on the cards.
    """

    t_s: float
    rss_bytes: int
    gpu_own_bytes: int
    gpu_all_bytes: int
    power_w: float | None


@dataclass(slots=True)
class Watch:
    """`energy_j` is what the cards used from the first look to the last, everything on them included."""

    looks: list[Look] = field(default_factory=list)
    pss_bytes: int | None = None
    energy_j: float | None = None

    def gpu_bytes(self, look: Look) -> int:
        """The server's own, or everybody's if the driver never told them apart."""
        return look.gpu_own_bytes if any(look.gpu_own_bytes for look in self.looks) else look.gpu_all_bytes

    def figures(self, output_tok: float) -> dict[str, float]:
        """Peaks and energy; what was not looked at, or is not told, is left out."""
        found: dict[str, float] = {}
        if rss := max((look.rss_bytes for look in self.looks), default=0):
            found["rss_peak_bytes"] = float(rss)
        if self.pss_bytes:
            found["pss_bytes"] = float(self.pss_bytes)
        if gpu := max((self.gpu_bytes(look) for look in self.looks), default=0):
            found["gpu_peak_bytes"] = float(gpu)
        if self.energy_j is not None and (took_s := self.looks[-1].t_s) > 0:
            found |= {"energy_j": self.energy_j, "power_w_mean": self.energy_j / took_s}
            found |= {"energy_j_per_output_tok": self.energy_j / output_tok} if output_tok else {}
        return found


@contextmanager
def watching(probes: Probes, clock: Clock = time.perf_counter) -> Iterator[Watch]:
    """What is yielded is complete when the block is left.

    Raises `LookupError` for a card that is not there, `psutil.NoSuchProcess`.
    """
    root = None if probes.pid is None else psutil.Process(probes.pid)
    with gpus(probes.cards) as cards:
        if root is None and not cards.handles:
            yield Watch()
            return
        observer = Observer(root, cards, clock)
        observer.look()
        ended = threading.Event()
        thread = threading.Thread(target=_keep_looking, args=(observer, probes.interval_s, ended), daemon=True)
        thread.start()
        try:
            yield observer.watch
        finally:
            ended.set()
            thread.join()
            observer.finish()


def _keep_looking(observer: Observer, interval_s: float, ended: threading.Event) -> None:
    """At multiples of the interval; those that a slow look has missed are left out, not made up for."""
    due_s = observer.clock()
    while True:
        now_s = observer.clock()
        due_s += interval_s * max(1, -(-(now_s - due_s) // interval_s))
        if ended.wait(max(due_s - now_s, 0.0)):
            return
        observer.look()


class Observer:
    """Looks when it is told to. Not for two threads at a time."""

    def __init__(self, root: psutil.Process | None, cards: Gpus, clock: Clock) -> None:
        self.watch = Watch()
        self.clock = clock
        self._root = root
        self._cards = cards
        self._family: Sequence[psutil.Process] = ()
        self._start_s = clock()
        self._energy_j = cards.energy_j()

    def look(self) -> None:
        if len(self.watch.looks) % _LOOKS_PER_FAMILY == 0:
            self._family = _family_of(self._root)
        pids = {process.pid for process in self._family}
        with suppress(CardError):  # a card that fell off the bus: there is nothing to be seen
            self.watch.looks.append(
                Look(
                    t_s=self.clock() - self._start_s,
                    rss_bytes=_rss_bytes(self._family),
                    gpu_own_bytes=self._cards.bytes_of(pids),
                    gpu_all_bytes=self._cards.bytes_of_all(),
                    power_w=self._cards.power_w(),
                )
            )

    def finish(self) -> None:
        """The last look, and what is too dear to be looked at all the time."""
        self.look()
        self.watch.pss_bytes = _pss_bytes(_family_of(self._root))
        after_j = self._cards.energy_j()
        if self._energy_j is not None and after_j is not None:
            self.watch.energy_j = after_j - self._energy_j
        else:
            self.watch.energy_j = _integral(self.watch.looks)


def _integral(looks: Sequence[Look]) -> float | None:
    """Joules from power over time, for cards that do not count their energy."""
    powers = [(look.t_s, look.power_w) for look in looks if look.power_w is not None]
    if len(powers) < 2:
        return None
    return sum((later_s - earlier_s) * (a + b) / 2 for (earlier_s, a), (later_s, b) in pairwise(powers))


def _family_of(root: psutil.Process | None) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [] if root is None else family(root)
    return []


def _rss_bytes(processes: Sequence[psutil.Process]) -> int:
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += process.memory_info().rss
    return total


def _pss_bytes(processes: Sequence[psutil.Process]) -> int | None:
    """Pages that several processes share are counted in parts. None where the system does not tell."""
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, AttributeError):
            total += process.memory_full_info().pss
    return total or None
