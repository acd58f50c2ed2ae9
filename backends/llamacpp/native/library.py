"""The loaded C library: what it logs, how it gives up, what it was built with."""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import llama_cpp

_LOG_LEVEL_WARN: Final = 3
_LOG_LEVEL_ERROR: Final = 4


class NativeError(Exception):
    """llama.cpp refused; `log` holds what it said, oldest first."""

    def __init__(self, message: str, log: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.log = log


class DecodeError(NativeError):
    """`llama_decode` returned `code`: 1 no room in the KV cache, 2 aborted, -1 bad batch, below: fatal."""

    def __init__(self, code: int, log: tuple[str, ...] = ()) -> None:
        super().__init__(f"llama_decode returned {code}", log)
        self.code = code

    @property
    def is_kv_full(self) -> bool:
        return self.code == 1


# llama.cpp logs through one process-wide callback: its last warnings and errors are what a failed load is explained by.
_recent_log: deque[str] = deque(maxlen=50)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]  # ctypes prototypes carry no types
def _on_log(level: int, text: bytes | None, _user_data: object) -> None:
    if level in (_LOG_LEVEL_WARN, _LOG_LEVEL_ERROR) and text:
        line = text.decode("utf-8", "replace").rstrip()
        _recent_log.append(line)
        if level == _LOG_LEVEL_ERROR:
            print(line, file=sys.stderr, flush=True)


LOG_CALLBACK: Final = _on_log
llama_cpp.llama_log_set(LOG_CALLBACK, ctypes.c_void_p(0))


def recent_log() -> tuple[str, ...]:
    """The last warnings and errors since `forget_log`, oldest first."""
    return tuple(_recent_log)


def forget_log() -> None:
    _recent_log.clear()


_AbortCallback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
_abort_callback: Any = None  # kept alive: C holds only its address


def on_abort(report: Callable[[str], None]) -> None:
    """Have `report` told why, just before a failed assertion in C ends the process."""
    global _abort_callback

    def told(message: bytes | None) -> None:
        report((message or b"").decode("utf-8", "replace"))

    _abort_callback = _AbortCallback(told)
    # Looked up from libllama: a wheel holds several copies of libggml-base, and only the one it is linked to counts.
    llama_cpp.llama_cpp._lib.ggml_set_abort_callback(_abort_callback)


def supports_gpu_offload() -> bool:
    """Whether this build of llama.cpp has a GPU backend and that backend sees a card."""
    return bool(llama_cpp.llama_supports_gpu_offload())
