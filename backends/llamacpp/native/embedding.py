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
    """A batch holds at most `n_tokens` of at most `n_texts`; `pooling` is how a text's tokens become one vector.

    `n_step` tokens are computed at a time, for a model whose tokens see only those before them, and whose last one
    stands for a text. None: a batch is computed at once. That takes memory for as many rows of logits as there are
    tokens, which llama.cpp computes whether they are wanted or not.
    """

    n_tokens: int
    n_texts: int
    pooling: str
    n_step: int | None = None
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
        self._is_output = np.ones(options.n_tokens, np.int8)
        self._no_output = np.zeros(options.n_tokens, np.int8)
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
        if self._memory:
            llama_cpp.llama_memory_clear(self._memory, False)
        if self.options.n_step is None:
            self._run(0, self._fill(texts, 0), self._is_output)
        else:
            self._embed_in_steps(texts, self.options.n_step)
        vectors = np.empty((len(texts), self._n_embd), np.float32)
        for seq_id in range(len(texts)):
            found = llama_cpp.llama_get_embeddings_seq(self._handle, seq_id)
            vectors[seq_id] = np.ctypeslib.as_array(found, (self._n_embd,))
        return vectors

    def _embed_in_steps(self, texts: Sequence[Sequence[int]], n_step: int) -> None:
        """The last tokens come at the end, and alone give an output."""
        n_before = self._fill([tokens[:-1] for tokens in texts], 0)
        n_all = self._fill([tokens[-1:] for tokens in texts], n_before, [len(tokens) - 1 for tokens in texts])
        llama_cpp.llama_set_embeddings(self._handle, False)
        for row in range(0, n_before, n_step):
            self._run(row, min(row + n_step, n_before), self._no_output)
        llama_cpp.llama_set_embeddings(self._handle, True)
        self._run(n_before, n_all, self._is_output)

    def _fill(self, texts: Sequence[Sequence[int]], row: int, starts: Sequence[int] | None = None) -> int:
        """Write texts into the rows from `row` on, each from position 0 or its start on; returns the row behind."""
        for seq_id, tokens in enumerate(texts):
            end, start = row + len(tokens), starts[seq_id] if starts else 0
            self._token[row:end] = tokens
            self._pos[row:end] = range(start, start + len(tokens))
            self._seq_id[row:end] = seq_id
            row = end
        return row

    def _run(self, start: int, end: int, is_output: npt.NDArray[np.int8]) -> None:
        batch = llama_cpp.llama_batch(
            n_tokens=end - start,
            token=_pointer(self._token[start:], ctypes.c_int32),
            embd=None,
            pos=_pointer(self._pos[start:], ctypes.c_int32),
            n_seq_id=_pointer(self._n_seq_id, ctypes.c_int32),
            seq_id=_pointer(self._seq_id_rows[start:], ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(is_output, ctypes.c_int8),
        )
        code = self._compute(self._handle, batch)
        if code != 0:
            raise DecodeError(code, recent_log())


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))


def _create(model: Model, options: EmbeddingOptions) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = options.n_tokens
    params.n_batch = params.n_ubatch = options.n_step or options.n_tokens
    params.n_seq_max = options.n_texts
    params.n_outputs_max = options.n_texts if options.n_step else options.n_tokens
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
