"""What this machine has: interpreter, compiler, CUDA toolkit, driver, cards."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pynvml

from backends.llamacpp_build import LlamaBuild, ask_build

_ASK_LIMIT_S: Final = 10.0
_NVIDIA, _DISPLAY = "0x10de", "0x03"  # PCI's numbers for the vendor and the class
_PACKAGE_MANAGERS: Final = ("apt-get", "dnf", "pacman", "zypper")
_TOOLKIT_PLACES: Final = ("/usr/local/cuda/bin/nvcc", "/opt/cuda/bin/nvcc")

Version = tuple[int, ...]
DriverState = Literal["working", "absent", "mismatched", "forbidden", "failing"]


@dataclass(frozen=True, slots=True)
class Interpreter:
    version: Version
    executable: str
    is_64_bit: bool
    is_virtual: bool


@dataclass(frozen=True, slots=True)
class Driver:
    """`cuda` is the newest CUDA that it runs; `n_pci_cards` NVIDIA cards are in the machine, working or not."""

    state: DriverState
    version: str | None = None
    cuda: Version | None = None
    detail: str | None = None
    n_pci_cards: int = 0


@dataclass(frozen=True, slots=True)
class Card:
    index: int
    name: str
    n_bytes: int
    n_free_bytes: int
    capability: Version | None


@dataclass(frozen=True, slots=True)
class Machine:
    """`compiler` and `toolkit` say what they are; None where there is none."""

    interpreter: Interpreter
    compiler: str | None
    toolkit: Version | None
    driver: Driver
    cards: tuple[Card, ...]
    llama: LlamaBuild
    processor: frozenset[str]
    package_manager: str | None = None
    is_container: bool = False
    visible_cards: str | None = None


def look(visible_cards: str | None) -> Machine:
    """`visible_cards` is CUDA_VISIBLE_DEVICES. Asks child processes, which takes a second or two."""
    driver, cards = _driver_and_cards()
    return Machine(
        interpreter=_interpreter(),
        compiler=_first_line("c++") or _first_line("g++") or _first_line("clang++"),
        toolkit=_toolkit(),
        driver=driver,
        cards=cards,
        llama=ask_build(),
        processor=_processor(),
        package_manager=next((name for name in _PACKAGE_MANAGERS if shutil.which(name)), None),
        is_container=any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv")),
        visible_cards=visible_cards,
    )


def _interpreter() -> Interpreter:
    return Interpreter(
        version=tuple(sys.version_info[:3]),
        executable=sys.executable,
        is_64_bit=sys.maxsize > 2**32,
        is_virtual=sys.prefix != sys.base_prefix,
    )


def _first_line(program: str) -> str | None:
    """Of what it says to `--version`; None where it cannot be run."""
    return next(iter(_said(program).splitlines()), None)


def _said(program: str) -> str:
    if not shutil.which(program):
        return ""
    try:
        asked = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_ASK_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return asked.stdout if asked.returncode == 0 else ""


def _toolkit() -> Version | None:
    said = next(filter(None, map(_said, ("nvcc", *_TOOLKIT_PLACES))), "")
    found = re.search(r"release (\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


def _processor() -> frozenset[str]:
    """What an x86 processor says it can compute with; nothing elsewhere."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return frozenset()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    found = re.search(r"^flags\s*: (.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def _driver_and_cards() -> tuple[Driver, tuple[Card, ...]]:
    n_pci_cards = _n_pci_cards()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Driver(_state(error), detail=str(error), n_pci_cards=n_pci_cards), ()
    try:
        cuda = int(pynvml.nvmlSystemGetCudaDriverVersion())
        version = str(pynvml.nvmlSystemGetDriverVersion())
        cards = tuple(_card(index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError as error:
        return Driver(_state(error), detail=str(error), n_pci_cards=n_pci_cards), ()
    finally:
        pynvml.nvmlShutdown()
    return Driver("working", version, (cuda // 1000, cuda % 1000 // 10), n_pci_cards=n_pci_cards), cards


def _state(error: Any) -> DriverState:
    states: dict[int, DriverState] = {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "absent",
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "absent",
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "mismatched",
        pynvml.NVML_ERROR_NO_PERMISSION: "forbidden",
    }
    return states.get(error.value, "failing")


def _card(index: int) -> Card:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        capability = tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle))
    except pynvml.NVMLError:
        capability = None
    return Card(index, str(pynvml.nvmlDeviceGetName(handle)), int(memory.total), int(memory.free), capability)


def _n_pci_cards() -> int:
    count = 0
    for device in Path("/sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text(), (device / "class").read_text()
        except OSError:
            continue
        count += vendor.strip() == _NVIDIA and kind.startswith(_DISPLAY)
    return count
