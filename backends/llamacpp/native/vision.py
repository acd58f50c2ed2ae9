"""The image encoder of an mmproj file: from pixels to embeddings that the language model reads like tokens."""

from __future__ import annotations

import ctypes
import os
import weakref
from pathlib import Path
from typing import Any, Final

import numpy as np
from llama_cpp import llama_cpp, mtmd_cpp

from backends.llamacpp.image_runs import ImageTokens, Int32Array
from backends.llamacpp.native.library import LOG_CALLBACK, NativeError, forget_log, recent_log
from backends.llamacpp.native.model import Model

_N_MROPE_DIMS: Final = 4


class PreparedImage:
    """An image scaled and cut as its encoder wants it.

    `parts`, in the prompt's order: tokens that mark where the image begins, its rows and its end, and between them the
    images themselves, whose embeddings are filled in by `ImageEncoder.encode`.
    """

    def __init__(self, parts: tuple[list[int] | ImageTokens, ...], chunks: Any) -> None:
        self.parts = parts
        self.chunks = chunks
        self.free = weakref.finalize(self, mtmd_cpp.mtmd_input_chunks_free, chunks)


class ImageEncoder:
    """One mmproj file, loaded for one model. Everything here blocks, and belongs to one thread at a time."""

    def __init__(self, path: Path, model: Model, *, n_threads: int | None, use_gpu: bool, n_ubatch: int) -> None:
        """`n_ubatch`: the most tokens of an image whose tokens look at each other. Raises `NativeError`."""
        forget_log()
        mtmd_cpp.mtmd_helper_log_set(LOG_CALLBACK, ctypes.c_void_p(0))
        self._n_embd: int = llama_cpp.llama_model_n_embd_inp(model.handle)
        self._handle = _open(path, model, n_threads, use_gpu, image_max_tokens=-1)
        if mtmd_cpp.mtmd_decode_use_non_causal(self._handle, None):
            self.close()
            self._handle = _open(path, model, n_threads, use_gpu, image_max_tokens=n_ubatch)
        if not mtmd_cpp.mtmd_support_vision(self._handle):
            self.close()
            raise NativeError("unsupported: not an image encoder", ("unsupported: not an image encoder",))
        self._n_dims = _N_MROPE_DIMS if mtmd_cpp.mtmd_decode_use_mrope(self._handle) else 1

    def close(self) -> None:
        if self._handle:
            mtmd_cpp.mtmd_free(self._handle)
            self._handle = None

    def prepare(self, rgb: bytes, width: int, height: int) -> PreparedImage:
        """Pixels, three bytes each, row by row. Raises `NativeError` for an image of an impossible shape."""
        chunks = mtmd_cpp.mtmd_input_chunks_init()
        pixels = ctypes.cast(ctypes.c_char_p(rgb), ctypes.POINTER(ctypes.c_uint8))
        bitmap = mtmd_cpp.mtmd_bitmap_init(width, height, pixels)
        try:
            part = mtmd_cpp.mtmd_input_part(bitmap=bitmap)
            parts = (ctypes.POINTER(mtmd_cpp.mtmd_input_part) * 1)(ctypes.pointer(part))
            code = mtmd_cpp.mtmd_tokenize_from_parts(self._handle, chunks, parts, 1, False)
        finally:
            mtmd_cpp.mtmd_bitmap_free(bitmap)
        if code != 0:
            mtmd_cpp.mtmd_input_chunks_free(chunks)
            raise NativeError(f"mtmd_tokenize_from_parts returned {code}")
        return PreparedImage(tuple(self._part(chunk) for chunk in _each(chunks)), chunks)

    def encode(self, prepared: PreparedImage) -> None:
        """Compute the embeddings of every part; what was needed for that is freed. Raises `NativeError`."""
        for part, chunk in zip(prepared.parts, _each(prepared.chunks), strict=True):
            if isinstance(part, ImageTokens):
                code = mtmd_cpp.mtmd_encode_chunk(self._handle, chunk)
                if code != 0:
                    raise NativeError(f"mtmd_encode_chunk returned {code}", recent_log())
                computed = mtmd_cpp.mtmd_get_output_embd(self._handle)
                part.embeddings = np.ctypeslib.as_array(computed, (part.n_tokens, self._n_embd)).copy()
        prepared.free()

    def _part(self, chunk: Any) -> list[int] | ImageTokens:
        n_tokens: int = mtmd_cpp.mtmd_input_chunk_get_n_tokens(chunk)
        if mtmd_cpp.mtmd_input_chunk_get_type(chunk) == mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_TEXT:
            return list(mtmd_cpp.mtmd_input_chunk_get_tokens_text(chunk, ctypes.c_size_t())[:n_tokens])
        origin, next_ = self._positions(chunk, n_tokens, 0), self._positions(chunk, n_tokens, 1)
        return ImageTokens(
            n_tokens=n_tokens,
            n_positions=mtmd_cpp.mtmd_input_chunk_get_n_pos(chunk),
            is_causal=not mtmd_cpp.mtmd_decode_use_non_causal(self._handle, chunk),
            origin=origin,
            step=next_ - origin,
        )

    def _positions(self, chunk: Any, n_tokens: int, first: int) -> Int32Array:
        """int32[n_dims, n_tokens]: time, row, column and a fourth, of which most models know the time alone."""
        image = mtmd_cpp.mtmd_input_chunk_get_tokens_image(chunk)
        places = [mtmd_cpp.mtmd_image_tokens_get_decoder_pos(image, first, i) for i in range(n_tokens)]
        table = np.array([(place.t, place.y, place.x, place.z) for place in places], np.int32)
        return np.ascontiguousarray(table.T[: self._n_dims])


def _open(path: Path, model: Model, n_threads: int | None, use_gpu: bool, *, image_max_tokens: int) -> Any:
    params = mtmd_cpp.mtmd_context_params_default()
    params.use_gpu = use_gpu
    params.n_threads = n_threads or os.cpu_count() or 1
    params.print_timings = False
    params.image_max_tokens = image_max_tokens
    handle = mtmd_cpp.mtmd_init_from_file(os.fsencode(path), model.handle, params)
    if not handle:
        raise NativeError(f"llama.cpp could not load {path.name}", recent_log())
    return handle


def _each(chunks: Any) -> list[Any]:
    return [mtmd_cpp.mtmd_input_chunks_get(chunks, i) for i in range(mtmd_cpp.mtmd_input_chunks_size(chunks))]
