"""What a model that sees is held against: llama.cpp's own way of reading a prompt with images, `mtmd_helper`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp import mtmd_cpp
from PIL import Image

from backends.llamacpp.native import Model
from tests.backends.llamacpp.reference import MAX_TIE_GAP

MARKER = "<__media__>"


class SeeingReference:
    """One sequence in a context of its own; to be closed."""

    def __init__(self, text: Path, mmproj: Path) -> None:
        self.model = Model(text, n_gpu_layers=0)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 1024, 512, 512
        params.n_threads = params.n_threads_batch = 1
        self._context = llama_cpp.llama_init_from_model(self.model.handle, params)
        vision = mtmd_cpp.mtmd_context_params_default()
        vision.use_gpu, vision.n_threads, vision.print_timings = False, 1, False
        self._vision = mtmd_cpp.mtmd_init_from_file(str(mmproj).encode(), self.model.handle, vision)

    def close(self) -> None:
        mtmd_cpp.mtmd_free(self._vision)
        llama_cpp.llama_free(self._context)
        self.model.close()

    def follow(self, prompt: str, images: Sequence[Image.Image], text: str) -> int:
        """Read `prompt`, its markers for `images`, and walk along `text`: each token is the best, or as good as it.

        Returns the number of the prompt's tokens.
        """
        n_past, n_prompt = self._read(prompt, images)
        rest = text.encode()
        while rest:
            logits = self._logits()
            best, second = np.argsort(-logits)[:2].tolist()
            token = best if rest.startswith(self.model.piece(best)) else second
            assert rest.startswith(self.model.piece(token)), (rest, self.model.piece(best))
            assert logits[best] - logits[token] <= MAX_TIE_GAP
            rest = rest[len(self.model.piece(token)) :]
            self._decode(token, n_past)
            n_past += 1
        return n_prompt

    def _read(self, prompt: str, images: Sequence[Image.Image]) -> tuple[int, int]:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        bitmaps = [self._bitmap(image) for image in images]
        raw = prompt.encode()
        text = mtmd_cpp.mtmd_input_text(text=raw, text_len=len(raw), add_special=False, parse_special=True)
        chunks = mtmd_cpp.mtmd_input_chunks_init()
        array = (ctypes.c_void_p * len(bitmaps))(*bitmaps)
        assert mtmd_cpp.mtmd_tokenize(self._vision, chunks, ctypes.byref(text), array, len(bitmaps)) == 0
        n_past = llama_cpp.llama_pos()
        code = mtmd_cpp.mtmd_helper_eval_chunks(
            self._vision, self._context, chunks, 0, 0, 512, True, ctypes.byref(n_past)
        )
        assert code == 0
        n_prompt: int = mtmd_cpp.mtmd_helper_get_n_tokens(chunks)
        mtmd_cpp.mtmd_input_chunks_free(chunks)
        for bitmap in bitmaps:
            mtmd_cpp.mtmd_bitmap_free(bitmap)
        return n_past.value, n_prompt

    @staticmethod
    def _bitmap(image: Image.Image) -> int | None:
        pixels = ctypes.cast(ctypes.c_char_p(image.tobytes()), ctypes.POINTER(ctypes.c_uint8))
        return mtmd_cpp.mtmd_bitmap_init(image.width, image.height, pixels)  # type: ignore[no-any-return]

    def _decode(self, token: int, position: int) -> None:
        batch = llama_cpp.llama_batch_init(1, 0, 1)
        batch.n_tokens = 1
        batch.token[0], batch.pos[0], batch.n_seq_id[0], batch.logits[0] = token, position, 1, 1
        batch.seq_id[0][0] = 0
        assert llama_cpp.llama_decode(self._context, batch) == 0
        llama_cpp.llama_batch_free(batch)

    def _logits(self) -> npt.NDArray[np.float32]:
        row = llama_cpp.llama_get_logits_ith(self._context, -1)
        return np.array(np.ctypeslib.as_array(row, (self.model.n_vocab,)))
