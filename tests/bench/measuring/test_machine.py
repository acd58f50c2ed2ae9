from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from bench.measuring.gpus import Card
from bench.measuring.load import Target
from bench.measuring.machine import card_of, describe, this_machine
from bench.servers.launch import Server
from bench.servers.recipes import Recipe

FIRST = Card(0, "NVIDIA GeForce RTX 3060", 12 << 30, "580.1", "13.0")
SECOND = replace(FIRST, index=1)
TARGET = Target("a", "http://127.0.0.1:9", "m")
RECIPE = Recipe("llama.cpp", TARGET, Server(TARGET, ("worker",)), settings={"kind": "llamacpp", "device": "cuda"})


def test_a_card_is_where_the_process_holds_memory_or_else_where_it_was_told_to_compute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: dict[int, Card] = {7: SECOND}
    monkeypatch.setattr("bench.measuring.machine.cards_here", lambda: [FIRST, SECOND])
    monkeypatch.setattr("bench.measuring.identity.card_of", held.get)
    assert card_of(RECIPE, 7) == card_of(replace(RECIPE, settings={}), 7) == SECOND
    assert card_of(RECIPE, 8) == card_of(RECIPE, None) == FIRST
    assert card_of(replace(RECIPE, settings={"kind": "vllm", "cuda_device": 1}), 8) == SECOND
    for device in ("auto", "cpu"):
        assert card_of(replace(RECIPE, settings={"kind": "llamacpp", "device": device}), 8) is None


async def test_a_target_is_told_with_its_card_its_settings_and_its_installed_packages() -> None:
    recipe = replace(RECIPE, python=sys.executable, packages=("aiohttp", "no-such-package"))
    found = await describe(recipe, None, FIRST)
    assert (found.card, found.card_memory_bytes, found.driver) == (FIRST.name, FIRST.memory_bytes, "580.1")
    assert found.engine_table == {"kind": "llamacpp", "device": "cuda"}
    assert (found.engine_version or "").startswith("aiohttp 3.")
    assert (await describe(replace(recipe, python="/nowhere/python"), None, None)).engine_version is None


def test_the_machine_is_told_with_what_measures() -> None:
    machine = this_machine()
    assert machine.n_cpus >= 1
    assert machine.memory_bytes > 1 << 28
    assert {"python", "aiohttp"} <= machine.versions.keys()
