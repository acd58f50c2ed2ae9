"""Judgements on machines of all kinds; none of them is this one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backends.llamacpp_build import LlamaBuild
from gguf_server.doctor.finding import Finding, Verdict, as_json, exit_status, worst
from gguf_server.doctor.machine_checks import check_machine
from gguf_server.doctor.machine_facts import Driver, Interpreter, Machine
from tests.gguf_server.doctor.machines import (
    FOR_CUDA,
    GIB,
    ON_THE_PROCESSOR,
    PYTHON,
    RTX_3060,
    RTX_5060_TI,
    WORKING,
    with_card,
    without_card,
)

CUDA_BUILD = (
    f"CMAKE_ARGS=-DGGML_CUDA=on {PYTHON} -m pip install --force-reinstall --no-deps --no-cache-dir"
    " 'llama-cpp-python>=0.3.36,<0.4'"
)
BUILD = CUDA_BUILD.removeprefix("CMAKE_ARGS=-DGGML_CUDA=on ")
INSTALL = f"{PYTHON} -m pip install 'llama-cpp-python>=0.3.36,<0.4'"
UNDER_WINDOWS = Interpreter((3, 11, 0), PYTHON, is_64_bit=False, is_virtual=True)
BUILT_WITHOUT_AVX = replace(ON_THE_PROCESSOR, features=frozenset({"SSE3"}))
BLIND = replace(FOR_CUDA, can_offload=False)
NOT_INSTALLED = LlamaBuild(None)


def unloadable(error: str) -> LlamaBuild:
    return LlamaBuild("0.3.36", error=error)


@pytest.mark.parametrize("machine", [without_card(), with_card(), with_card(cards=(RTX_5060_TI, RTX_3060))])
def test_a_machine_on_which_all_is_well_has_nothing_to_mend(machine: Machine) -> None:
    assert {(it.verdict, it.remedy) for it in check_machine(machine)} == {(Verdict.OK, None)}


CASES: list[tuple[Machine, str, Verdict, str, str | None]] = [
    (
        without_card(interpreter=Interpreter((3, 10, 9), PYTHON, is_64_bit=True, is_virtual=True)),
        *("python", Verdict.BROKEN, "3.10.9 is older than 3.11", "make PYTHON=python3.11"),
    ),
    (without_card(interpreter=UNDER_WINDOWS), "python", Verdict.BROKEN, "32-bit", None),
    (without_card(compiler=None), "compiler", Verdict.OK, "none is needed", None),
    (
        without_card(compiler=None, llama=NOT_INSTALLED),
        *("compiler", Verdict.BROKEN, "still to be built", "sudo apt-get install build-essential"),
    ),
    (
        with_card(compiler=None, llama=ON_THE_PROCESSOR, package_manager="dnf"),
        *("compiler", Verdict.WARNING, "for the card", "sudo dnf install gcc-c++ make"),
    ),
    (
        without_card(compiler=None, llama=NOT_INSTALLED, package_manager=None),
        *("compiler", Verdict.BROKEN, "still to be built", None),
    ),
    (without_card(), "driver", Verdict.OK, "there is no NVIDIA card: the processor computes", None),
    (
        without_card(driver=Driver("absent", n_pci_cards=1)),
        *("driver", Verdict.BROKEN, "no driver for it", "sudo apt-get install nvidia-driver"),
    ),
    (
        without_card(driver=Driver("absent", n_pci_cards=1), is_container=True),
        *("driver", Verdict.BROKEN, "this container does not get it", "docker run --gpus all …"),
    ),
    (without_card(driver=Driver("mismatched")), "driver", Verdict.BROKEN, "the driver was renewed", "sudo reboot"),
    (
        without_card(driver=Driver("forbidden")),
        "driver",
        Verdict.BROKEN,
        "may not use",
        "sudo usermod -aG video,render $USER",
    ),
    (
        without_card(driver=Driver("failing", detail="GPU is lost")),
        *("driver", Verdict.BROKEN, "it does not work: GPU is lost", "nvidia-smi"),
    ),
    (without_card(driver=WORKING), "driver", Verdict.WARNING, "NVIDIA 580.95 sees no card", "nvidia-smi"),
    (with_card(), "driver", Verdict.OK, "NVIDIA 580.95, for CUDA up to 13.0", None),
    (with_card(), "card", Verdict.OK, "RTX 5060 Ti, compute capability 12.0: 15.0 of 16.0 GiB free", None),
    (
        with_card(cards=(replace(RTX_5060_TI, n_free_bytes=7 * GIB, capability=None),)),
        *("card", Verdict.WARNING, "RTX 5060 Ti: 7.0 of 16.0 GiB free; another program holds the rest", "nvidia-smi"),
    ),
    (without_card(toolkit=(13, 0)), "cuda_toolkit", Verdict.OK, "CUDA 13.0; without a card none is needed", None),
    (with_card(toolkit=None), "cuda_toolkit", Verdict.OK, "none; llama.cpp is built for the card already", None),
    (
        with_card(toolkit=None, llama=ON_THE_PROCESSOR),
        *("cuda_toolkit", Verdict.WARNING, "without nvcc", "sudo apt-get install nvidia-cuda-toolkit"),
    ),
    (
        with_card(toolkit=(12, 4), llama=ON_THE_PROCESSOR),
        *(
            "cuda_toolkit",
            Verdict.WARNING,
            "CUDA 12.4 does not know this card: 12.8",
            "sudo apt-get install nvidia-cuda-toolkit",
        ),
    ),
    (
        with_card(toolkit=(12, 4), llama=ON_THE_PROCESSOR, cards=(RTX_3060,)),
        "cuda_toolkit",
        Verdict.OK,
        "CUDA 12.4",
        None,
    ),
    (
        with_card(driver=replace(WORKING, cuda=(12, 8)), llama=ON_THE_PROCESSOR),
        *("cuda_toolkit", Verdict.WARNING, "the driver (CUDA 12.8) does not run", "sudo apt-get install nvidia-driver"),
    ),
    (without_card(llama=NOT_INSTALLED), "llama_cpp", Verdict.BROKEN, "not installed", INSTALL),
    (
        without_card(llama=unloadable("RuntimeError: libcuda.so.1: cannot open shared object file")),
        *("llama_cpp", Verdict.BROKEN, "built for CUDA, and there is no driver", BUILD),
    ),
    (
        without_card(llama=unloadable("killed by SIGILL")),
        *("llama_cpp", Verdict.BROKEN, "built for another processor", BUILD),
    ),
    (
        without_card(llama=unloadable("OSError: version `GLIBC_2.38' not found")),
        *("llama_cpp", Verdict.BROKEN, "cannot be loaded: OSError: version `GLIBC_2.38' not found", BUILD),
    ),
    (
        without_card(llama=replace(ON_THE_PROCESSOR, version="0.3.16")),
        "llama_cpp",
        Verdict.WARNING,
        "was not tested",
        INSTALL,
    ),
    (
        without_card(llama=replace(ON_THE_PROCESSOR, version="0.4.0")),
        "llama_cpp",
        Verdict.WARNING,
        "was not tested",
        INSTALL,
    ),
    (with_card(llama=replace(FOR_CUDA, version="0.3.40+cu130")), "llama_cpp", Verdict.OK, "0.3.40+cu130", None),
    (without_card(llama=BUILT_WITHOUT_AVX), "llama_cpp", Verdict.WARNING, "does not use the processor's AVX2", BUILD),
    (without_card(llama=BUILT_WITHOUT_AVX, processor=frozenset()), "llama_cpp", Verdict.OK, "on the processor", None),
    (with_card(), "llama_cpp", Verdict.OK, "0.3.36, computes on the card and on the processor", None),
    (with_card(llama=ON_THE_PROCESSOR), "llama_cpp", Verdict.WARNING, "built without CUDA", CUDA_BUILD),
    (with_card(llama=BLIND), "llama_cpp", Verdict.WARNING, "built for CUDA, and sees no card", CUDA_BUILD),
    (
        with_card(llama=BLIND, visible_cards=""),
        *("llama_cpp", Verdict.WARNING, "CUDA_VISIBLE_DEVICES is ''", "unset CUDA_VISIBLE_DEVICES"),
    ),
]


@pytest.mark.parametrize(("machine", "check", "verdict", "says", "remedy"), CASES)
def test_what_is_wrong_is_said_with_the_command_that_mends_it(
    machine: Machine, check: str, verdict: Verdict, says: str, remedy: str | None
) -> None:
    (finding,) = (it for it in check_machine(machine) if it.check == check)
    assert (finding.verdict, finding.remedy) == (verdict, remedy)
    assert says in finding.message


def test_each_card_has_a_line_of_its_own() -> None:
    cards = [it for it in check_machine(with_card(cards=(RTX_5060_TI, RTX_3060))) if it.check == "card"]
    assert [it.subject for it in cards] == ["0", "1"]


def test_the_exit_status_tells_of_what_is_broken_and_not_of_warnings() -> None:
    ok, warning, broken = (Finding("x", verdict, "") for verdict in Verdict)
    assert [worst(findings) for findings in ([], [ok, warning], [warning, broken, ok])] == list(Verdict)
    assert [exit_status(findings) for findings in ([], [ok, warning], [broken])] == [0, 0, 1]


def test_the_json_has_one_shape() -> None:
    assert as_json([Finding("port", Verdict.BROKEN, "taken", "ss", "server.port"), Finding("x", Verdict.OK, "y")]) == {
        "schema": 1,
        "verdict": "broken",
        "findings": [
            {"check": "port", "verdict": "broken", "message": "taken", "remedy": "ss", "subject": "server.port"},
            {"check": "x", "verdict": "ok", "message": "y", "remedy": None, "subject": None},
        ],
    }
