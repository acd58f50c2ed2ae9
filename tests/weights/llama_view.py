"""What llama.cpp itself makes of GGUF files; `python -m tests.weights.llama_view FILE…` prints it, an object for each.

It is read from llama.cpp's log, which tells of each layer before it looks for tensors, so that a header is enough.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_NUMBER = re.compile(r"print_info: (\w+) += (\d+)$", re.MULTILINE)
_PER_LAYER = re.compile(r"print_info: (\w+) += \[([\d, ]+)\]$", re.MULTILINE)
_SLIDING = re.compile(r"load_tensors: layer +(\d+) assigned to device \w+, is_swa = (\d)$", re.MULTILINE)
_KEPT = re.compile(r"llama_kv_cache: layer +(\d+): dev = ", re.MULTILINE)
_STATE = re.compile(r"llama_memory_recurrent, layer +(\d+): dev = ", re.MULTILINE)


def views(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Asked of another process, where the log is nobody else's."""
    command = [sys.executable, "-m", "tests.weights.llama_view", *map(str, paths)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return [json.loads(line) for line in printed.splitlines()]


def main() -> None:
    import llama_cpp

    log: list[str] = []

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]  # ctypes prototypes carry no types
    def keep(_level: int, text: bytes | None, _user_data: object) -> None:
        log.append((text or b"").decode(errors="replace"))

    llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
    for path in sys.argv[1:]:
        log.clear()
        sizes = _load(llama_cpp, path)
        print(json.dumps({**sizes, **_told("".join(log))}), flush=True)


def _load(llama_cpp: Any, path: str) -> dict[str, int]:
    """Of a file with tensors. A context is made as well: then the log tells which layers keep keys and values."""
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    if not model:
        return {}
    options = llama_cpp.llama_context_default_params()
    options.n_ctx, options.n_threads = 256, 1
    context = llama_cpp.llama_init_from_model(model, options)
    sizes = {
        "n_tensor_bytes": llama_cpp.llama_model_size(model),
        "n_parameters": llama_cpp.llama_model_n_params(model),
    }
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return sizes


def _told(log: str) -> dict[str, Any]:
    """`is_sliding` is empty where llama.cpp refused what the header says."""
    told: dict[str, Any] = {name: int(value) for name, value in _NUMBER.findall(log)}
    told |= {name: [int(value) for value in values.split(", ")] for name, values in _PER_LAYER.findall(log)}
    is_sliding = [value == "1" for _, value in _SLIDING.findall(log)]
    told["is_sliding"] = is_sliding[:-1]  # the last is that of the output
    told["kept"] = sorted({int(layer) for layer in _KEPT.findall(log)})
    told["states"] = sorted({int(layer) for layer in _STATE.findall(log)})
    return told


if __name__ == "__main__":
    main()
