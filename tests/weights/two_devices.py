"""What llama.cpp says of a host and a card, on a machine without a card.

llama.cpp's RPC backend takes a server for a card: tensors, cache and graph are shared between it and the host by the
same rules as with CUDA, except that CUDA's flash attention keeps copies of a quantised cache. Both sides are here on
this machine: `python -m tests.weights.two_devices LIBRARY` writes `two_devices.json` anew, where LIBRARY is ggml-rpc,
built from the source that llama-cpp-python ships and linked to its `libggml-base.so`.
"""

from __future__ import annotations

import ctypes
import json
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from tests.weights.breakdown import Told, measure
from tests.weights.memory_cases import CASES, Wanted, written
from weights.cards import CARDS
from weights.gguf_model import read
from weights.memory_plan import MemoryPlan, plan_memory

PAGE: Final = Path(__file__).with_name("two_devices.json")
RECORDED: Final[dict[str, Told]] = json.loads(PAGE.read_text()) if PAGE.exists() else {}

_PARTS: Final = ("weights", "KV cache", "recurrent state", "compute buffers")
_COPIED: Final = {"q8_0", "q4_0"}
_START_S: Final = 20.0


def plan_for_two(name: str, folder: Path) -> MemoryPlan:
    """The plan of a case on a card that holds everything and has flash attention for heads of any width, as there."""
    case = written(CASES[name], folder)
    flash_attn = "on" if case.settings.flash_attn == "auto" else case.settings.flash_attn
    card = replace(CARDS["rtx-5090"], memory_bytes=1 << 40)
    return plan_memory(read(case.model), replace(case.settings, flash_attn=flash_attn), card)


def main() -> None:
    library = Path(sys.argv[1]).resolve()
    if sys.argv[2:]:
        _serve(library, sys.argv[2])
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    server = subprocess.Popen([sys.executable, "-m", "tests.weights.two_devices", str(library), endpoint])
    try:
        _wait(endpoint)
        recorded = _record(library, endpoint)
    finally:
        server.kill()
        server.wait()
    PAGE.write_text(json.dumps(recorded, indent=1) + "\n")


def _record(library: Path, endpoint: str) -> dict[str, Told]:
    wanted = {name: case for name, case in CASES.items() if _is_alike(case)}
    with tempfile.TemporaryDirectory() as folder:
        cases = [written(case, Path(folder)) for case in wanted.values()]
        told = measure(cases, (library, endpoint))
    return {
        name: {part: sizes for part, sizes in parts.items() if part in _PARTS and _is_told(part, case)}
        for (name, case), parts in zip(wanted.items(), told, strict=True)
    }


def _is_alike(wanted: Wanted) -> bool:
    """Whether CUDA would do the same."""
    return not {wanted.settings.type_k, wanted.settings.type_v} & _COPIED


def _is_told(part: str, wanted: Wanted) -> bool:
    """Of a file that is a hole llama.cpp says of compute buffers alone where they would be."""
    return wanted.mix is None or part == "compute buffers"


def _serve(library: Path, endpoint: str) -> None:
    import llama_cpp

    llama_cpp.llama_backend_init()
    backend = ctypes.CDLL(str(library))
    mapped = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    ggml = ctypes.CDLL(next(path for path in mapped if Path(path).name.startswith("libggml.so")))
    ggml.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    cpu = (ctypes.c_void_p * 1)(ggml.ggml_backend_dev_by_type(0))
    backend.ggml_backend_rpc_start_server(endpoint.encode(), None, ctypes.c_size_t(1), ctypes.c_size_t(1), cpu)


def _wait(endpoint: str) -> None:
    host, _, port = endpoint.partition(":")
    deadline = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


if __name__ == "__main__":
    main()
