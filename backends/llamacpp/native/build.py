"""How the llama.cpp that is installed here was built."""

from __future__ import annotations

from typing import Any

import llama_cpp

from backends.llamacpp.native.library import supports_gpu_offload


def describe() -> dict[str, Any]:
    """`system_info` is llama.cpp's own line: `CPU : AVX2 = 1 | … | CUDA : ARCHS = 860 | …`."""
    return {
        "version": llama_cpp.__version__,
        "system_info": llama_cpp.llama_print_system_info().decode(errors="replace"),
        "can_offload": supports_gpu_offload(),
    }
