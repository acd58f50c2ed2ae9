"""llama.cpp behind Python types: the one module that imports `llama_cpp`.

Every non-zero return of a C function becomes an exception here. Long calls (`load`, `decode`, `tokenize`) release the
interpreter lock; the short ones of the step go through `PYFUNCTYPE`, which keeps it and costs half as much.

A `Context` belongs to the one thread that steps it. A `Model`'s vocabulary may be read from any thread.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

# OpenMP's threads spin at the end of each of a step's thousand operations. For as long as they do by default, two
# workers on the same cores, or a worker beside anything busy, hardly move (measured on 2 cores: 35 tokens/s each, or
# less than 1); so short a spin costs a lone worker nothing that could be measured, and they share fairly (75 each).
# libgomp reads it when it is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import llama_cpp

Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]

_LOG_LEVEL_WARN: Final = 3
_LOG_LEVEL_ERROR: Final = 4

_GGML_TYPES: Final = {
    "f32": llama_cpp.GGML_TYPE_F32,
    "f16": llama_cpp.GGML_TYPE_F16,
    "bf16": 30,  # GGML_TYPE_BF16, which the binding does not name
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
}
_FLASH_ATTN: Final = {"auto": -1, "off": 0, "on": 1}
_LOAD_MODE_NONE: Final = 0
_LOAD_MODE_MMAP: Final = 1
_ATTR_CONTROL: Final = 1 << 3
_ATTR_UNKNOWN: Final = 1 << 0


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


llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))


def recent_log() -> tuple[str, ...]:
    return tuple(_recent_log)


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


def llama_cpp_version() -> str:
    return str(llama_cpp.__version__)


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """`n_ctx_total` cells for `n_parallel` sequences; `unified`: one pool for all, else an equal share for each."""

    n_ctx_total: int
    n_parallel: int
    unified: bool
    n_batch: int = 512
    n_ubatch: int = 512
    n_threads: int | None = None
    flash_attn: str = "auto"
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"


class Model:
    """A loaded GGUF. `on_progress` is called on the loading thread with 0.0 to 1.0; blocks until loaded."""

    def __init__(
        self,
        path: Path,
        *,
        n_gpu_layers: int = -1,
        use_mmap: bool = True,
        vocab_only: bool = False,
        on_progress: Callable[[float], None] = lambda _fraction: None,
    ) -> None:
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers
        params.load_mode = _LOAD_MODE_MMAP if use_mmap else _LOAD_MODE_NONE
        params.vocab_only = vocab_only

        def progress(fraction: float, _user_data: object) -> bool:
            on_progress(fraction)
            return True

        callback = llama_cpp.llama_progress_callback(progress)
        params.progress_callback = callback
        _recent_log.clear()
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise NativeError(f"llama.cpp could not load {path.name}", recent_log())
        if not llama_cpp.llama_model_has_decoder(self._model) or llama_cpp.llama_model_has_encoder(self._model):
            self.close()
            raise NativeError("unsupported: not a decoder-only model", ("unsupported: not a decoder-only model",))
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._pieces: dict[int, bytes] = {}
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.n_ctx_train: int = llama_cpp.llama_model_n_ctx_train(self._model)
        self.n_swa: int = llama_cpp.llama_model_n_swa(self._model)
        self.bos_token: int = llama_cpp.llama_vocab_bos(self._vocab)
        self.eos_token: int = llama_cpp.llama_vocab_eos(self._vocab)
        self.adds_bos: bool = llama_cpp.llama_vocab_get_add_bos(self._vocab)
        self.eog_tokens = frozenset(
            token for token in range(self.n_vocab) if llama_cpp.llama_vocab_is_eog(self._vocab, token)
        )

    def close(self) -> None:
        if self._model:
            llama_cpp.llama_model_free(self._model)
            self._model = None

    @property
    def chat_template(self) -> str | None:
        raw = llama_cpp.llama_model_chat_template(self._model, None)
        return raw.decode("utf-8", "replace") if raw else None

    def token_text(self, token: int) -> str:
        """The vocabulary's own spelling of a token, special ones included; "" for none."""
        return self._render(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def control_texts(self) -> tuple[str, ...]:
        """Spellings of every control token: what must never be read as one inside a user's text."""
        hidden = _ATTR_CONTROL | _ATTR_UNKNOWN
        attr = llama_cpp.llama_vocab_get_attr
        tokens = (token for token in range(self.n_vocab) if attr(self._vocab, token) & hidden)
        return tuple(text for text in map(self.token_text, tokens) if text)

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids of `text`. `parse_special` reads `<|im_end|>` and its like as control tokens."""
        raw = text.encode("utf-8", "replace")
        capacity = len(raw) + 8
        buffer = (ctypes.c_int32 * capacity)()
        count = llama_cpp.llama_tokenize(self._vocab, raw, len(raw), buffer, capacity, add_special, parse_special)
        if count < 0:
            capacity = -count
            buffer = (ctypes.c_int32 * capacity)()
            count = llama_cpp.llama_tokenize(self._vocab, raw, len(raw), buffer, capacity, add_special, parse_special)
        if count < 0:
            raise NativeError("llama_tokenize failed")
        return buffer[:count]

    def piece(self, token: int) -> bytes:
        """Bytes a generated token stands for: part of a character at times, none for a control token."""
        cached = self._pieces.get(token)
        if cached is None:
            cached = self._pieces[token] = self._render(token, special=False)
        return cached

    def show_token(self, token: int) -> None:
        """Let `piece` spell out a control token: a reasoning marker that has to reach the parser."""
        self._pieces[token] = self._render(token, special=True)

    def detokenize(self, tokens: list[int]) -> str:
        raw = (ctypes.c_int32 * len(tokens))(*tokens)
        capacity = len(tokens) * 8 + 64
        while True:
            buffer = ctypes.create_string_buffer(capacity)
            size = llama_cpp.llama_detokenize(self._vocab, raw, len(tokens), buffer, capacity, False, True)
            if size >= 0:
                return buffer.raw[:size].decode("utf-8", "replace")
            capacity = -size

    def _render(self, token: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        size = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, 64, 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, -size, 0, special)
        return buffer.raw[:size]

    def create_context(self, options: ContextOptions) -> Context:
        """Allocate KV cache and compute buffers. Raises `NativeError`, out of memory included."""
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = options.n_ctx_total
        params.n_batch = options.n_batch
        params.n_ubatch = min(options.n_ubatch, options.n_batch)
        params.n_seq_max = options.n_parallel
        params.n_outputs_max = options.n_parallel
        params.n_threads = params.n_threads_batch = options.n_threads or os.cpu_count() or 1
        params.flash_attn_type = _FLASH_ATTN[options.flash_attn]
        params.type_k = _GGML_TYPES[options.cache_type_k]
        params.type_v = _GGML_TYPES[options.cache_type_v]
        params.kv_unified = options.unified
        params.swa_full = False
        _recent_log.clear()
        handle = llama_cpp.llama_init_from_model(self._model, params)
        if not handle:
            raise NativeError("llama.cpp could not create a context", recent_log())
        return Context(handle, self, options)


def _quick(name: str, result: Any, *arguments: Any) -> Any:
    """The C function `name`, called without giving the interpreter lock away."""
    return ctypes.PYFUNCTYPE(result, *arguments)((name, llama_cpp.llama_cpp._lib))


class Context:
    """KV cache and compute of one model.

    A batch is filled by slice stores into `token`, `pos`, `seq_id` and `wants_logits` (each [n_batch]); `decode(n)`
    computes its first n rows.
    """

    def __init__(self, handle: Any, model: Model, options: ContextOptions) -> None:
        self._handle = handle
        self._memory = llama_cpp.llama_get_memory(handle)
        self._n_vocab = model.n_vocab
        self._n_swa = model.n_swa
        n_batch = options.n_batch
        self.token: Int32Array = np.zeros(n_batch, np.int32)
        self.pos: Int32Array = np.zeros(n_batch, np.int32)
        self.seq_id: Int32Array = np.zeros(n_batch, np.int32)
        self.wants_logits: npt.NDArray[np.int8] = np.zeros(n_batch, np.int8)
        self._n_seq_id: Int32Array = np.ones(n_batch, np.int32)
        self._seq_id_rows = self.seq_id.ctypes.data + 4 * np.arange(n_batch, dtype=np.uintp)
        self._batch = self._make_batch()
        self._logits_of = _quick("llama_get_logits", ctypes.c_void_p, ctypes.c_void_p)
        self._views: dict[tuple[int, int], Float32Array] = {}

    def _make_batch(self) -> Any:
        def pointer(array: npt.NDArray[Any], kind: Any) -> Any:
            return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))

        return llama_cpp.llama_batch(
            n_tokens=0,
            token=pointer(self.token, ctypes.c_int32),
            embd=None,
            pos=pointer(self.pos, ctypes.c_int32),
            n_seq_id=pointer(self._n_seq_id, ctypes.c_int32),
            seq_id=pointer(self._seq_id_rows, ctypes.POINTER(ctypes.c_int32)),
            logits=pointer(self.wants_logits, ctypes.c_int8),
        )

    def close(self) -> None:
        if self._handle:
            llama_cpp.llama_free(self._handle)
            self._handle = None

    def decode(self, n_tokens: int) -> None:
        """Compute the first `n_tokens` rows; blocks, without the interpreter lock. Raises `DecodeError`."""
        self._batch.n_tokens = n_tokens
        code = llama_cpp.llama_decode(self._handle, self._batch)
        if code != 0:
            raise DecodeError(code, recent_log())

    def logits(self, n_rows: int) -> Float32Array:
        """Logits of the rows that wanted them, in batch order: float32[n_rows, n_vocab].

        A view of llama.cpp's own buffer: it may be written to, and is overwritten by the next `decode`.
        """
        address = self._logits_of(self._handle)
        view = self._views.get((address, n_rows))
        if view is None:
            count = n_rows * self._n_vocab
            flat = np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (count,))
            if len(self._views) > 512:  # the buffer moved often: forget the old addresses
                self._views.clear()
            view = self._views[address, n_rows] = flat.reshape(n_rows, self._n_vocab)
        return view

    def forget(self, seq_id: int) -> None:
        """Free every cell of a sequence."""
        llama_cpp.llama_memory_seq_rm(self._memory, seq_id, -1, -1)

    def keep_prefix(self, seq_id: int, n_keep: int) -> bool:
        """Drop a sequence's cells from position `n_keep` on.

        False, with nothing of the sequence left, where this model's memory cannot be cut there (a recurrent state, or
        a sliding window that has moved past).
        """
        can_cut = n_keep > 0 and self._window_reaches(seq_id, n_keep)
        if can_cut and llama_cpp.llama_memory_seq_rm(self._memory, seq_id, n_keep, -1):
            return True
        self.forget(seq_id)
        return n_keep == 0

    def _window_reaches(self, seq_id: int, n_keep: int) -> bool:
        first = llama_cpp.llama_memory_seq_pos_min(self._memory, seq_id)
        return bool(first == 0 or (first > 0 and self._n_swa > 0 and first <= n_keep - self._n_swa))
