"""What a file is that was taken for a GGUF: the mistakes people make, told by how the file begins."""

from __future__ import annotations

import re
from typing import Final

_KNOWN: Final = (
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer, the model itself was not fetched: git lfs pull"),
    (re.compile(rb"\s*<(!doctype|html|head)", re.IGNORECASE), "a web page, not what was to be downloaded"),
    (
        re.compile(rb".{8}\{\s*\"", re.DOTALL),
        "safetensors: vLLM takes the folder it is in, llama.cpp's converter makes a GGUF",
    ),
    (re.compile(rb"\s*[{\[]"), "JSON, such as a config.json or an error message"),
    (re.compile(rb"PK\x03\x04"), "a PyTorch checkpoint or another archive: llama.cpp's converter makes a GGUF"),
    (re.compile(rb"lmgg|tjgg|fmgg|algg"), "a GGML file of before 2023's GGUF, which nothing loads any more"),
    (re.compile(rb"\x00{8}"), "zeros: a download that was begun and not finished"),
)


def what_it_is(beginning: bytes) -> str:
    """Words to put behind "it begins with something else"; empty where it is nothing known. Needs some 20 bytes."""
    return next((f" ({words})" for pattern, words in _KNOWN if pattern.match(beginning)), "")
