"""What a result says of the machine, of the servers and of their files. Linux tells most."""

from __future__ import annotations

import asyncio
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import psutil

from bench.measuring import identity
from bench.measuring.gpus import Card, gpus
from bench.records.record import Gpu, Machine, TargetRecord
from bench.servers.recipes import Recipe

_PACKAGES: Final = ("gguf-server", "aiohttp", "llama-cpp-python")
_ASK_LIMIT_S: Final = 10.0
_TEXT_LIMIT: Final = 200
_TELL_VERSIONS: Final = """
import sys
from importlib import metadata
def told(name):
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return ""
print(", ".join(filter(None, map(told, sys.argv[1:]))))
"""


def this_machine() -> Machine:
    with gpus() as found:
        cards = [Gpu(card.name, card.memory_bytes, card.driver) for card in found.cards()]
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=_cpu(),
        n_cpus=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        gpus=tuple(cards),
        versions={"python": platform.python_version(), **dict(_versions())},
    )


def cards_here() -> list[Card]:
    with gpus() as found:
        return found.cards()


def card_of(recipe: Recipe, pid: int | None) -> Card | None:
    """The card on which its processes hold memory, as the driver tells; else that which it was told to compute on."""
    if pid is not None and (card := identity.card_of(pid)) is not None:
        return card
    if recipe.settings.get("kind") != "vllm" and recipe.settings.get("device") != "cuda":
        return None
    index = int(recipe.settings.get("cuda_device") or 0)
    return next((card for card in cards_here() if card.index == index), None)


async def describe(recipe: Recipe, pid: int | None, card: Card | None) -> TargetRecord:
    """Versions are those installed where it was started from, else what the server tells of itself.

    Raises `OSError` for a file of weights that cannot be read.
    """
    settings = recipe.settings.items()
    found = await identity.identify(
        recipe.target,
        engine=recipe.engine,
        files=(recipe.file,) if recipe.file else (),
        argv=recipe.server.argv if recipe.server else (),
        pid=pid,
        card=card,
        engine_table={key: value for key, value in settings if isinstance(value, bool | int | float | str)},
    )
    if recipe.server is None or not recipe.packages:
        return found
    versions = await asyncio.to_thread(_installed, recipe.python, recipe.packages)
    return replace(found, engine_version=versions or found.engine_version)


def _installed(python: str, packages: Sequence[str]) -> str | None:
    """Such as `vllm 0.33.0, vllm-gguf-plugin 0.0.5`: those of the packages that are there."""
    try:
        done = subprocess.run(
            [python, "-c", _TELL_VERSIONS, *packages], capture_output=True, text=True, timeout=_ASK_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip()[:_TEXT_LIMIT] or None


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            yield package, version(package)


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()[:_TEXT_LIMIT]
    return platform.processor() or platform.machine()
