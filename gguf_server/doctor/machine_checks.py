"""Judgements on a machine: can it run the gateway, and can its cards be used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from backends.llamacpp_build import LlamaBuild
from gguf_server.doctor.finding import Finding, Verdict
from gguf_server.doctor.machine_facts import Card, Interpreter, Machine, Version

OLDEST_PYTHON: Final[Version] = (3, 11)
OLDEST_LLAMA, FIRST_UNKNOWN_LLAMA = (0, 3, 36), (0, 4)
_REQUIREMENT: Final = "'llama-cpp-python>=0.3.36,<0.4'"
_BLACKWELL: Final[Version] = (12, 0)
_FIRST_BLACKWELL_TOOLKIT: Final[Version] = (12, 8)
_LITTLE_FREE: Final = 0.5  # of a card
_GIB: Final = 1 << 30

_COMPILER_PACKAGES: Final = {
    "apt-get": "sudo apt-get install build-essential",
    "dnf": "sudo dnf install gcc-c++ make",
    "pacman": "sudo pacman -S base-devel",
    "zypper": "sudo zypper install gcc-c++ make",
}
_TOOLKIT_PACKAGES: Final = {
    "apt-get": "sudo apt-get install nvidia-cuda-toolkit",
    "dnf": "sudo dnf install cuda-toolkit",
    "pacman": "sudo pacman -S cuda",
    "zypper": "sudo zypper install cuda-toolkit",
}
_DRIVER_PACKAGES: Final = {
    "apt-get": "sudo apt-get install nvidia-driver",
    "dnf": "sudo dnf install akmod-nvidia",
    "pacman": "sudo pacman -S nvidia",
    "zypper": "sudo zypper install nvidia-driver-G06",
}


def check_machine(machine: Machine) -> Iterator[Finding]:
    yield check_python(machine.interpreter)
    yield check_compiler(machine)
    yield check_driver(machine)
    yield from (check_card(card) for card in machine.cards)
    yield check_toolkit(machine)
    yield check_llama_cpp(machine)


def check_python(interpreter: Interpreter) -> Finding:
    version = dotted(interpreter.version)
    if interpreter.version < OLDEST_PYTHON:
        message = f"{version} is older than {dotted(OLDEST_PYTHON)}"
        return Finding("python", Verdict.BROKEN, message, "make PYTHON=python3.11")
    if not interpreter.is_64_bit:
        return Finding("python", Verdict.BROKEN, f"{version} is a 32-bit program: no model fits into its memory")
    where = "in a virtual environment" if interpreter.is_virtual else "of the system"
    return Finding("python", Verdict.OK, f"{version} {where}: {interpreter.executable}")


def check_compiler(machine: Machine) -> Finding:
    """It is needed to build llama.cpp, which pip does."""
    if machine.compiler is not None:
        return Finding("compiler", Verdict.OK, machine.compiler)
    remedy = _COMPILER_PACKAGES.get(machine.package_manager or "")
    if machine.llama.version is None or machine.llama.error is not None:
        return Finding("compiler", Verdict.BROKEN, "there is none, and llama.cpp is still to be built", remedy)
    if wants_cuda(machine):
        return Finding("compiler", Verdict.WARNING, "there is none to build llama.cpp for the card", remedy)
    return Finding("compiler", Verdict.OK, "there is none, and none is needed: llama.cpp is built")


def check_driver(machine: Machine) -> Finding:
    driver = machine.driver
    match driver.state:
        case "working" if machine.cards:
            cuda = f", for CUDA up to {dotted(driver.cuda)}" if driver.cuda else ""
            return Finding("driver", Verdict.OK, f"NVIDIA {driver.version}{cuda}")
        case "working":
            return Finding("driver", Verdict.WARNING, f"NVIDIA {driver.version} sees no card", "nvidia-smi")
        case "absent":
            return _driver_absent(machine)
        case "mismatched":
            message = "the driver was renewed, and the kernel still runs the old one"
            return Finding("driver", Verdict.BROKEN, message, "sudo reboot")
        case "forbidden":
            message = "this user may not use the card's devices (/dev/nvidia*)"
            return Finding("driver", Verdict.BROKEN, message, "sudo usermod -aG video,render $USER")
        case "failing":
            return Finding("driver", Verdict.BROKEN, f"it does not work: {driver.detail}", "nvidia-smi")


def _driver_absent(machine: Machine) -> Finding:
    if machine.driver.n_pci_cards == 0:
        return Finding("driver", Verdict.OK, "none, and there is no NVIDIA card: the processor computes")
    if machine.is_container:
        message = "the machine has an NVIDIA card, and this container does not get it"
        return Finding("driver", Verdict.BROKEN, message, "docker run --gpus all …")
    message = "there is an NVIDIA card, and no driver for it"
    return Finding("driver", Verdict.BROKEN, message, _DRIVER_PACKAGES.get(machine.package_manager or ""))


def check_card(card: Card) -> Finding:
    total, free = card.n_bytes / _GIB, card.n_free_bytes / _GIB
    capability = f", compute capability {dotted(card.capability)}" if card.capability else ""
    message = f"{card.name}{capability}: {free:.1f} of {total:.1f} GiB free"
    if card.n_free_bytes < _LITTLE_FREE * card.n_bytes:
        message += "; another program holds the rest"
        return Finding("card", Verdict.WARNING, message, "nvidia-smi", subject=str(card.index))
    return Finding("card", Verdict.OK, message, subject=str(card.index))


def check_toolkit(machine: Machine) -> Finding:
    """Only building for a card needs it; a build that finds a card has proved that it was the right one."""
    toolkit, driver = machine.toolkit, machine.driver
    found = f"CUDA {dotted(toolkit)}" if toolkit else "none"
    if not machine.cards:
        return Finding("cuda_toolkit", Verdict.OK, f"{found}; without a card none is needed")
    if not wants_cuda(machine):
        return Finding("cuda_toolkit", Verdict.OK, f"{found}; llama.cpp is built for the card already")
    install = _TOOLKIT_PACKAGES.get(machine.package_manager or "")
    if toolkit is None:
        message = "none: llama.cpp cannot be built for the card without nvcc"
        return Finding("cuda_toolkit", Verdict.WARNING, message, install)
    if driver.cuda is not None and toolkit[0] > driver.cuda[0]:
        message = f"{found} makes programs that the driver (CUDA {dotted(driver.cuda)}) does not run"
        remedy = _DRIVER_PACKAGES.get(machine.package_manager or "")
        return Finding("cuda_toolkit", Verdict.WARNING, f"{message}: renew the driver", remedy)
    if toolkit < _FIRST_BLACKWELL_TOOLKIT and any((card.capability or ()) >= _BLACKWELL for card in machine.cards):
        message = f"{found} does not know this card: {dotted(_FIRST_BLACKWELL_TOOLKIT)} or newer does"
        return Finding("cuda_toolkit", Verdict.WARNING, message, install)
    return Finding("cuda_toolkit", Verdict.OK, found)


def check_llama_cpp(machine: Machine) -> Finding:
    llama, python = machine.llama, machine.interpreter.executable
    if llama.version is None:
        message = "llama-cpp-python is not installed"
        return Finding("llama_cpp", Verdict.BROKEN, message, f"{python} -m pip install {_REQUIREMENT}")
    if llama.error is not None:
        return _cannot_be_loaded(llama, python)
    if not OLDEST_LLAMA <= numbers(llama.version) < FIRST_UNKNOWN_LLAMA:
        message = f"llama-cpp-python {llama.version} was not tested, {_REQUIREMENT.strip(chr(39))} is"
        return Finding("llama_cpp", Verdict.WARNING, message, f"{python} -m pip install {_REQUIREMENT}")
    if machine.cards and not llama.can_offload:
        return _leaves_the_card(machine)
    if "avx2" in machine.processor and "AVX2" not in llama.features:
        message = f"{llama.version} does not use the processor's AVX2, and is several times slower for it"
        return Finding("llama_cpp", Verdict.WARNING, message, rebuild(python))
    where = "on the card and on the processor" if llama.can_offload else "on the processor"
    return Finding("llama_cpp", Verdict.OK, f"{llama.version}, computes {where}")


def _cannot_be_loaded(llama: LlamaBuild, python: str) -> Finding:
    error = llama.error or ""
    message = f"llama-cpp-python {llama.version} cannot be loaded: {error}"
    if "libcuda.so" in error:
        message = f"llama-cpp-python {llama.version} is built for CUDA, and there is no driver (libcuda.so.1)"
    elif "SIGILL" in error:
        message = f"llama-cpp-python {llama.version} was built for another processor"
    return Finding("llama_cpp", Verdict.BROKEN, message, rebuild(python))


def _leaves_the_card(machine: Machine) -> Finding:
    llama = machine.llama
    if "CUDA" not in llama.backends:
        message = f"{llama.version} is built without CUDA: it computes on the processor, and leaves the card idle"
        return Finding("llama_cpp", Verdict.WARNING, message, rebuild(machine.interpreter.executable, cuda=True))
    message = f"{llama.version} is built for CUDA, and sees no card"
    if machine.visible_cards is not None:
        message += f": CUDA_VISIBLE_DEVICES is {machine.visible_cards!r}"
        return Finding("llama_cpp", Verdict.WARNING, message, "unset CUDA_VISIBLE_DEVICES")
    return Finding("llama_cpp", Verdict.WARNING, message, rebuild(machine.interpreter.executable, cuda=True))


def wants_cuda(machine: Machine) -> bool:
    """Whether llama.cpp is still to be built for a card that is there."""
    return bool(machine.cards) and "CUDA" not in machine.llama.backends


def rebuild(python: str, *, cuda: bool = False) -> str:
    options = "CMAKE_ARGS=-DGGML_CUDA=on " if cuda else ""
    return f"{options}{python} -m pip install --force-reinstall --no-deps --no-cache-dir {_REQUIREMENT}"


def dotted(version: Version) -> str:
    return ".".join(map(str, version))


def numbers(version: str) -> Version:
    """`0.3.36` of `0.3.36+cu124`."""
    parts = version.partition("+")[0].split(".")
    return tuple(int(part) for part in parts if part.isdecimal())
