"""Machines that somebody might have, as facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from backends.llamacpp_build import LlamaBuild
from gguf_server.doctor.machine_facts import Card, Driver, Interpreter, Machine

GIB = 1 << 30
PYTHON = "/venv/bin/python"

ON_THE_PROCESSOR = LlamaBuild("0.3.36", frozenset({"CPU"}), frozenset({"AVX2", "AVX512"}))
FOR_CUDA = replace(ON_THE_PROCESSOR, backends=frozenset({"CPU", "CUDA"}), can_offload=True)

RTX_5060_TI = Card(0, "NVIDIA GeForce RTX 5060 Ti", 16 * GIB, 15 * GIB, (12, 0))
RTX_3060 = Card(1, "NVIDIA GeForce RTX 3060", 12 * GIB, 11 * GIB, (8, 6))
WORKING = Driver("working", "580.95", (13, 0), n_pci_cards=1)


def without_card(**changes: Any) -> Machine:
    """A machine of processors, on which everything is well."""
    machine = Machine(
        interpreter=Interpreter((3, 12, 3), PYTHON, is_64_bit=True, is_virtual=True),
        compiler="c++ 13.2.0",
        toolkit=None,
        driver=Driver("absent", detail="NVML Shared Library Not Found"),
        cards=(),
        llama=ON_THE_PROCESSOR,
        processor=frozenset({"avx2"}),
        package_manager="apt-get",
    )
    return replace(machine, **changes)


def with_card(**changes: Any) -> Machine:
    """A machine with a card, on which everything is well."""
    machine = without_card(driver=WORKING, cards=(RTX_5060_TI,), llama=FOR_CUDA, toolkit=(13, 0))
    return replace(machine, **changes)
