"""What a server's processes cost and on which cores they run, as the operating system tells. Linux."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import psutil


def listening_at(url: str) -> psutil.Process:
    """The process that listens on the port of `url`. Raises `LookupError` where none of this user's does."""
    port = urlsplit(url).port
    for connection in psutil.net_connections("tcp"):
        if connection.status != psutil.CONN_LISTEN or connection.pid is None or not connection.laddr:
            continue
        if connection.laddr.port == port:
            return psutil.Process(connection.pid)
    raise LookupError(f"no process of this user listens at {url}")


def cpu_s(root: psutil.Process) -> float:
    """Seconds of processor time that it and its children have used, to a hundredth.

    A child that ends takes its time with it, so a difference is right only where none ended between.
    """
    total = 0.0
    for process in family(root):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


@contextmanager
def pinned(cores: Mapping[psutil.Process, Sequence[int]]) -> Iterator[None]:
    """Keep each process with its children and all their threads to some cores; afterwards all is as before."""
    before: dict[int, set[int]] = {}
    try:
        for root, allowed in cores.items():
            for thread in _threads(root):
                with suppress(ProcessLookupError):
                    before[thread] = os.sched_getaffinity(thread)
                    os.sched_setaffinity(thread, allowed)
        yield
    finally:
        for thread, allowed_before in before.items():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread, allowed_before)


def cores_apart() -> tuple[list[int], list[int]]:
    """One core for a proxy, the others for those around it. Raises `RuntimeError` where there is only one."""
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise RuntimeError("a proxy on a core of its own needs a machine with two")
    return [first], others


def family(root: psutil.Process) -> list[psutil.Process]:
    return [root, *root.children(recursive=True)]


def _threads(root: psutil.Process) -> list[int]:
    found = []
    for process in family(root):
        with suppress(psutil.NoSuchProcess):
            found += [thread.id for thread in process.threads()]
    return found
