"""One vector for a whole text: a context that keeps nothing from one batch to the next."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import llama_cpp
import numpy as np
import numpy.typing as npt

from backends.llamacpp.native.library import DecodeError, NativeError, forget_log, recent_log
from backends.llamacpp.native.model import Model

Float32Array = npt.NDArray[np.float32]

POOLING_TYPES: Final = {
    "mean": llama_cpp.LLAMA_POOLING_TYPE_MEAN,
    "cls": llama_cpp.LLAMA_POOLING_TYPE_CLS,
    "last": llama_cpp.LLAMA_POOLING_TYPE_LAST,
}
_FLASH_ATTN: Final = {"auto": -1, "off": 0, "on": 1}


@dataclass(frozen=True, slots=True)
class EmbeddingOptions:
    """A batch holds at most `n_tokens` of at most `n_texts`; `pooling` is how a text's tokens become one vector."""

    n_tokens: int
    n_texts: int
    pooling: str
    n_threads: int | None = None
    flash_attn: str = "auto"


class EmbeddingContext:
    """Computes batches of whole texts, by `llama_encode` where the model has no cache. Belongs to one thread."""

    def __init__(self, model: Model, options: EmbeddingOptions) -> None:
        """Allocates the buffers. Raises `NativeError`, out of memory included."""
        self.options = options
        self._n_embd: int = llama_cpp.llama_model_n_embd_out(model.handle)
        self._handle = _create(model, options)
        self._memory = llama_cpp.llama_get_memory(self._handle)
        self._compute = llama_cpp.llama_decode if self._memory else llama_cpp.llama_encode
        self._token, self._pos, self._seq_id = np.zeros((3, options.n_tokens), np.int32)
        self._n_seq_id = np.ones(options.n_tokens, np.int32)
        self._wants_output = np.ones(options.n_tokens, np.int8)
        self._seq_id_rows = self._seq_id.ctypes.data + 4 * np.arange(options.n_tokens, dtype=np.uintp)

    @property
    def n_embd(self) -> int:
        """Length of a vector."""
        return self._n_embd

    def close(self) -> None:
        if self._handle:
            llama_cpp.llama_free(self._handle)
            self._handle = None

    def embed(self, texts: Sequence[Sequence[int]]) -> Float32Array:
        """The vectors of texts given in tokens, as the model made them: float32[len(texts), n_embd].

        Blocks, without the interpreter lock. Raises `DecodeError`.
        """
        batch = self._filled(texts)
        if self._memory:
            llama_cpp.llama_memory_clear(self._memory, False)
        code = self._compute(self._handle, batch)
        if code != 0:
            raise DecodeError(code, recent_log())
        vectors = np.empty((len(texts), self._n_embd), np.float32)
        for seq_id in range(len(texts)):
            found = llama_cpp.llama_get_embeddings_seq(self._handle, seq_id)
            vectors[seq_id] = np.ctypeslib.as_array(found, (self._n_embd,))
        return vectors

    def _filled(self, texts: Sequence[Sequence[int]]) -> Any:
        row = 0
        for seq_id, tokens in enumerate(texts):
            end = row + len(tokens)
            self._token[row:end] = tokens
            self._pos[row:end] = range(len(tokens))
            self._seq_id[row:end] = seq_id
            row = end
        return llama_cpp.llama_batch(
            n_tokens=row,
            token=_pointer(self._token, ctypes.c_int32),
            embd=None,
            pos=_pointer(self._pos, ctypes.c_int32),
            n_seq_id=_pointer(self._n_seq_id, ctypes.c_int32),
            seq_id=_pointer(self._seq_id_rows, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(self._wants_output, ctypes.c_int8),
        )


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))


def _create(model: Model, options: EmbeddingOptions) -> Any:
    """A text is never split: one that sees what comes after it has to be computed at once."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = options.n_tokens
    params.n_seq_max = options.n_texts
    params.kv_unified = True
    params.embeddings = True
    params.pooling_type = POOLING_TYPES[options.pooling]
    params.n_threads = params.n_threads_batch = options.n_threads or os.cpu_count() or 1
    params.flash_attn_type = _FLASH_ATTN[options.flash_attn]
    forget_log()
    handle = llama_cpp.llama_init_from_model(model.handle, params)
    if not handle:
        raise NativeError("llama.cpp could not create a context", recent_log())
    return handle
