"""What llama.cpp itself says a model takes: `python -m tests.weights.breakdown` reads it from its log.

A case is a model and settings; files whose weights are a hole are measured without allocating anything, as llama.cpp
does for fitting parameters to a card. It prints two decimals of a MiB, so that every figure is exact to 5 KiB.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from weights.load_settings import LoadSettings

MIB: Final = 1 << 20

_PATTERNS: Final = {
    "weights": re.compile(r"load_tensors: +(\S+) model buffer size = +([\d.]+) MiB"),
    "KV cache": re.compile(r"llama_kv_cache: +(\S+) KV buffer size = +([\d.]+) MiB"),
    "recurrent state": re.compile(r"llama_memory_recurrent: +(\S+) RS buffer size = +([\d.]+) MiB"),
    "compute buffers": re.compile(r"sched_reserve: +(\S+) compute buffer size = +([\d.]+) MiB"),
    "image encoder": re.compile(r"load_hparams: (model) size: +([\d.]+) MiB"),
    "image encoder's buffers": re.compile(r"reserve_compute_meta: +(\S+) compute buffer size = +([\d.]+) MiB"),
}
_OF_HOLES: Final = re.compile(r"(llama_kv_cache): size = +([\d.]+) MiB")
"""Of a file that is a hole no buffer is made for keys and values, and only their size said."""
_TYPES: Final = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "bf16": 30}
_FLASH_ATTN: Final = {"auto": -1, "off": 0, "on": 1}
_MMAP: Final = 1


@dataclass(frozen=True, slots=True)
class Case:
    """`is_hollow`: the file's weights are a hole."""

    model: Path
    settings: LoadSettings
    is_hollow: bool = False
    projector: Path | None = None


Told = dict[str, dict[str, int]]
"""Bytes of each part on the host and on the card; what llama.cpp does not name is left out."""


def measure(cases: Sequence[Case], device: tuple[Path, str] | None = None) -> list[Told]:
    """Asked of another process. `device`: llama.cpp's RPC backend and where a server of it listens, for a card."""
    asked = [{**asdict(case), "model": str(case.model), "projector": str(case.projector or "")} for case in cases]
    command = [sys.executable, "-m", "tests.weights.breakdown", *map(str, device or ())]
    done = subprocess.run(command, input=json.dumps(asked), check=True, capture_output=True, text=True, timeout=200)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    import llama_cpp
    from llama_cpp import mtmd_cpp

    log: list[str] = []

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]  # ctypes prototypes carry no types
    def keep(_level: int, text: bytes | None, _user_data: object) -> None:
        log.append((text or b"").decode(errors="replace"))

    llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
    mtmd_cpp.mtmd_helper_log_set(keep, ctypes.c_void_p(0))
    if sys.argv[1:]:
        _register(sys.argv[1], sys.argv[2])
    llama_cpp.llama_backend_init()
    for case in json.loads(sys.stdin.read()):
        log.clear()
        _load(llama_cpp, case)
        print(json.dumps(_told("".join(log), is_hollow=case["is_hollow"])), flush=True)


def _register(library: str, endpoint: str) -> None:
    """Let llama.cpp compute on what answers at `endpoint`, as on a card."""
    backend = ctypes.CDLL(library)
    backend.ggml_backend_rpc_add_server.restype = ctypes.c_void_p
    mapped = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    ggml = ctypes.CDLL(next(path for path in mapped if Path(path).name.startswith("libggml.so")))
    registry = backend.ggml_backend_rpc_add_server(endpoint.encode())
    ggml.ggml_backend_register(ctypes.c_void_p(registry))


def _load(llama_cpp: Any, case: dict[str, Any]) -> None:
    """Asks as `backends/llamacpp/native/` does."""
    settings = LoadSettings(**case["settings"])
    params = llama_cpp.llama_model_default_params()
    params.no_alloc = case["is_hollow"]
    params.load_mode = 0 if case["is_hollow"] else _MMAP
    model = llama_cpp.llama_model_load_from_file(os.fsencode(case["model"]), params)
    asked = llama_cpp.llama_context_default_params()
    asked.n_ctx = settings.n_ctx_total or settings.n_ctx * settings.n_seqs
    asked.n_batch, asked.n_ubatch, asked.n_seq_max = settings.n_batch, settings.n_ubatch, settings.n_seqs
    asked.n_outputs_max = settings.n_outputs
    asked.kv_unified, asked.swa_full = settings.is_unified, False
    asked.type_k, asked.type_v = _TYPES[settings.type_k], _TYPES[settings.type_v]
    asked.flash_attn_type = _FLASH_ATTN[settings.flash_attn]
    asked.n_threads = asked.n_threads_batch = 1
    context = llama_cpp.llama_init_from_model(model, asked)
    if case["projector"]:
        _load_projector(model, case["projector"])
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)


def _load_projector(model: Any, path: str) -> None:
    from llama_cpp import mtmd_cpp

    params = mtmd_cpp.mtmd_context_params_default()
    params.use_gpu, params.n_threads = False, 1
    mtmd_cpp.mtmd_free(mtmd_cpp.mtmd_init_from_file(os.fsencode(path), model, params))


def _told(log: str, *, is_hollow: bool) -> Told:
    patterns = {**_PATTERNS, "KV cache": _OF_HOLES} if is_hollow else _PATTERNS
    told: Told = {}
    for part, pattern in patterns.items():
        for device, mib in pattern.findall(log):
            place = "gpu" if device.startswith("RPC") else "host"
            sizes = told.setdefault(part, {"host": 0, "gpu": 0})
            sizes[place] += round(float(mib) * MIB)
    return told


if __name__ == "__main__":
    main()
