"""The KV cache of a model and what is computed in it."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any, Final

import llama_cpp
import numpy as np
import numpy.typing as npt

from backends.llamacpp.image_runs import ImageTokens
from backends.llamacpp.native.image_positions import ImagePositions
from backends.llamacpp.native.library import DecodeError, NativeError, forget_log, recent_log
from backends.llamacpp.native.model import Model

Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]
State = npt.NDArray[np.uint8]

_GGML_TYPES: Final = {
    "f32": llama_cpp.GGML_TYPE_F32,
    "f16": llama_cpp.GGML_TYPE_F16,
    "bf16": 30,  # GGML_TYPE_BF16, which the binding does not name
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
}
_FLASH_ATTN: Final = {"auto": -1, "off": 0, "on": 1}


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """`n_ctx_total` cells for `n_parallel` sequences; `unified`: one pool for all, else an equal share for each.

    A step gives at most one row of logits for each sequence and `n_score_rows` and `n_draft_rows` more.
    """

    n_ctx_total: int
    n_parallel: int
    unified: bool
    n_batch: int = 512
    n_ubatch: int = 512
    n_threads: int | None = None
    flash_attn: str = "auto"
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    n_score_rows: int = 0
    n_draft_rows: int = 0


def _create(model: Model, options: ContextOptions) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = options.n_ctx_total
    params.n_batch = options.n_batch
    params.n_ubatch = min(options.n_ubatch, options.n_batch)
    params.n_seq_max = options.n_parallel
    params.n_outputs_max = options.n_parallel + options.n_score_rows + options.n_draft_rows
    params.n_threads = params.n_threads_batch = options.n_threads or os.cpu_count() or 1
    params.flash_attn_type = _FLASH_ATTN[options.flash_attn]
    params.type_k = _GGML_TYPES[options.cache_type_k]
    params.type_v = _GGML_TYPES[options.cache_type_v]
    params.kv_unified = options.unified
    params.swa_full = False
    forget_log()
    handle = llama_cpp.llama_init_from_model(model.handle, params)
    if not handle:
        raise NativeError("llama.cpp could not create a context", recent_log())
    return handle


def _quick(name: str, result: Any, *arguments: Any) -> Any:
    """The C function `name`, called without giving the interpreter lock away."""
    return ctypes.PYFUNCTYPE(result, *arguments)((name, llama_cpp.llama_cpp._lib))


class Context:
    """KV cache and compute of one model.

    A batch is filled by slice stores into `token`, `pos`, `seq_id` and `wants_logits` (each [n_batch]); `decode(n)`
    computes its first n rows.
    """

    def __init__(self, model: Model, options: ContextOptions) -> None:
        """Allocates cache and compute buffers. Raises `NativeError`, out of memory included."""
        self._handle = _create(model, options)
        self._memory = llama_cpp.llama_get_memory(self._handle)
        self._n_vocab = model.n_vocab
        self._n_swa = model.n_swa
        self._has_recurrent_state = model.has_recurrent_state
        self._is_offloaded = model.is_offloaded
        self.shares_cells = options.unified or options.n_parallel == 1
        self._in_transit: set[int] = set()  # copies between streams that the next `decode` makes before anything else
        self._scratch: State = np.empty(0, np.uint8)
        self._images = ImagePositions()
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
        self._in_transit.clear()
        if code != 0:
            raise DecodeError(code, recent_log())

    def decode_embeddings(
        self, image: ImageTokens, rows: slice, *, seq_id: int, position: int, wants_logits: bool
    ) -> None:
        """Compute `rows` of an image, which begins at `position` of a sequence, from their embeddings.

        Blocks, without the interpreter lock. `wants_logits`: of the last of them. Raises `DecodeError`.
        """
        if image.embeddings is None:
            raise ValueError("the image is not encoded yet")
        embeddings = image.embeddings[rows]
        positions = np.ascontiguousarray(image.positions(position)[:, rows])
        n_rows = len(embeddings)
        self.seq_id[:n_rows] = seq_id
        self.wants_logits[:n_rows] = 0
        self.wants_logits[n_rows - 1] = wants_logits
        batch = self._make_batch()
        batch.n_tokens = n_rows
        batch.token = None
        batch.embd = ctypes.cast(embeddings.ctypes.data, ctypes.POINTER(ctypes.c_float))
        batch.pos = ctypes.cast(positions.ctypes.data, ctypes.POINTER(ctypes.c_int32))
        if not image.is_causal:
            llama_cpp.llama_set_causal_attn(self._handle, False)
        try:
            code = llama_cpp.llama_decode(self._handle, batch)
        finally:
            if not image.is_causal:
                llama_cpp.llama_set_causal_attn(self._handle, True)
        self._in_transit.clear()
        if code != 0:
            raise DecodeError(code, recent_log())
        if image.n_positions != image.n_tokens:
            self._images.note(seq_id, position, (rows.start or 0) + n_rows, image.n_positions)

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

    @property
    def cuts_anywhere(self) -> bool:
        """Whether the cells of any beginning are there on their own: no sliding window, no recurrent state."""
        return not (self._n_swa or self._has_recurrent_state)

    def n_tokens(self, seq_id: int) -> int:
        """How far a sequence's cells go."""
        return self._images.n_tokens(seq_id, int(llama_cpp.llama_memory_seq_pos_max(self._memory, seq_id)))

    def can_keep(self, seq_id: int, n_tokens: int) -> bool:
        """Whether a sequence can be gone on with behind its first `n_tokens`."""
        if n_tokens == self.n_tokens(seq_id):
            return True  # there is nothing to cut
        if self._has_recurrent_state:
            return False
        first = llama_cpp.llama_memory_seq_pos_min(self._memory, seq_id)
        return bool(first == 0 or (first > 0 and self._n_swa > 0 and first <= n_tokens - self._n_swa))

    def forget(self, seq_id: int) -> None:
        """Free every cell of a sequence."""
        llama_cpp.llama_memory_seq_rm(self._memory, seq_id, -1, -1)
        self._images.truncate(seq_id, 0)

    def keep_prefix(self, seq_id: int, n_tokens: int) -> bool:
        """Drop a sequence's cells behind its first `n_tokens`.

        False, with nothing of the sequence left, where this model's memory cannot be cut there (a recurrent state, or
        a sliding window that has moved past).
        """
        can_cut = n_tokens > 0 and self.can_keep(seq_id, n_tokens)
        position = self._images.position_of(seq_id, n_tokens)
        if can_cut and llama_cpp.llama_memory_seq_rm(self._memory, seq_id, position, -1):
            self._images.truncate(seq_id, n_tokens)
            return True
        self.forget(seq_id)
        return n_tokens == 0

    @property
    def forks_share_cells(self) -> bool:
        """Not behind a sliding window: shared cells that it has left could not be used again by anybody."""
        return self.shares_cells and not self._n_swa

    def can_fork(self, source: int, n_tokens: int) -> bool:
        """Whether another sequence can be given the first `n_tokens` of one."""
        if self.shares_cells and self._n_swa:
            return n_tokens == self.n_tokens(source)  # a copy has what the window sees from there, not from earlier
        return self.can_keep(source, n_tokens)

    def fork(self, source: int, target: int, n_tokens: int) -> bool:
        """Give the first `n_tokens` of a sequence to one that holds nothing. False, with nothing given: it cannot be.

        Between streams llama.cpp copies all of a stream, used or not, and only before the next `decode`. On the host
        the used part is copied here at once instead.
        """
        if not self.can_fork(source, n_tokens):
            return False
        if self.forks_share_cells:
            end = self._images.position_of(source, n_tokens) if self.cuts_anywhere else -1
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, end)
        elif not self.shares_cells and (self._is_offloaded or not self.cuts_anywhere):
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)
            self._in_transit |= {source, target}
        elif not self._copy(source, target):
            return False
        self._images.copy(source, target)
        return self.keep_prefix(target, n_tokens)

    def _copy(self, source: int, target: int) -> bool:
        n_bytes = self.state_size(source)
        if len(self._scratch) < n_bytes:
            self._scratch = np.empty(n_bytes * 3 // 2, np.uint8)
        state = self._scratch[:n_bytes]
        return self._read_state(source, state) and self.restore(target, state)

    def state_size(self, seq_id: int) -> int:
        return int(llama_cpp.llama_state_seq_get_size(self._handle, seq_id))

    def save(self, seq_id: int) -> State | None:
        """A copy of everything that a sequence has in memory; None where that alone would not tell its positions."""
        if seq_id in self._images:
            return None
        state: State = np.empty(self.state_size(seq_id), np.uint8)
        return state if self._read_state(seq_id, state) else None

    def _read_state(self, seq_id: int, state: State) -> bool:
        if seq_id in self._in_transit:
            return False
        return bool(
            llama_cpp.llama_state_seq_get_data(self._handle, _bytes(state), state.nbytes, seq_id) == state.nbytes
        )

    def restore(self, seq_id: int, state: State) -> bool:
        """Give a saved state to a sequence that holds nothing; False, with nothing given, where there is no room."""
        if seq_id in self._in_transit:
            return False
        if llama_cpp.llama_state_seq_set_data(self._handle, _bytes(state), state.nbytes, seq_id) == state.nbytes:
            return True
        self.forget(seq_id)
        return False


def _bytes(state: State) -> Any:
    return ctypes.cast(state.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
