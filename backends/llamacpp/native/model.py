"""A model file in memory and its vocabulary."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Final

import llama_cpp

from backends.llamacpp.native.library import NativeError, forget_log, recent_log, supports_gpu_offload

_MARKER: Final = re.compile(r"<[^\s<>]+>")
_LOAD_MODE_NONE: Final = 0
_LOAD_MODE_MMAP: Final = 1
_ATTR_CONTROL: Final = 1 << 3
_ATTR_UNKNOWN: Final = 1 << 0
_ATTR_USER_DEFINED: Final = 1 << 4


class Model:
    """A loaded GGUF. `on_progress` is called on the loading thread with 0.0 to 1.0; blocks until loaded."""

    def __init__(
        self,
        path: Path,
        *,
        n_gpu_layers: int = -1,
        use_mmap: bool = True,
        on_progress: Callable[[float], None] = lambda _fraction: None,
    ) -> None:
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers
        params.load_mode = _LOAD_MODE_MMAP if use_mmap else _LOAD_MODE_NONE

        def progress(fraction: float, _user_data: object) -> bool:
            on_progress(fraction)
            return True

        callback = llama_cpp.llama_progress_callback(progress)
        params.progress_callback = callback
        forget_log()
        self.handle = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if not self.handle:
            raise NativeError(f"llama.cpp could not load {path.name}", recent_log())
        self.has_decoder: bool = llama_cpp.llama_model_has_decoder(self.handle)
        if self.has_decoder and llama_cpp.llama_model_has_encoder(self.handle):
            self.close()
            why = "unsupported: an encoder and a decoder in one model"
            raise NativeError(why, (why,))
        self._vocab = llama_cpp.llama_model_get_vocab(self.handle)
        self._pieces: dict[int, bytes] = {}
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.n_ctx_train: int = llama_cpp.llama_model_n_ctx_train(self.handle)
        self.n_swa: int = llama_cpp.llama_model_n_swa(self.handle)
        is_recurrent, is_hybrid = llama_cpp.llama_model_is_recurrent, llama_cpp.llama_model_is_hybrid
        self.has_recurrent_state: bool = is_recurrent(self.handle) or is_hybrid(self.handle)
        self.is_offloaded: bool = n_gpu_layers != 0 and supports_gpu_offload()
        self.bos_token: int = llama_cpp.llama_vocab_bos(self._vocab)
        self.eos_token: int = llama_cpp.llama_vocab_eos(self._vocab)
        self.adds_bos: bool = llama_cpp.llama_vocab_get_add_bos(self._vocab)
        self.eog_tokens = frozenset(
            token for token in range(self.n_vocab) if llama_cpp.llama_vocab_is_eog(self._vocab, token)
        )

    def close(self) -> None:
        if self.handle:
            llama_cpp.llama_model_free(self.handle)
            self.handle = None

    def metadata(self, key: str) -> str | None:
        """The GGUF's value of `key`, spelt as llama.cpp does; `{arch}` in it stands for the architecture."""
        if "{arch}" in key:
            key = key.replace("{arch}", self.metadata("general.architecture") or "")
        buffer = ctypes.create_string_buffer(256)
        size = llama_cpp.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if size >= 0 else None

    @property
    def chat_template(self) -> str | None:
        raw = llama_cpp.llama_model_chat_template(self.handle, None)
        return raw.decode("utf-8", "replace") if raw else None

    @property
    def fim_tokens(self) -> tuple[int, int, int] | None:
        """Tokens that stand before a prefix, a suffix and the middle to be filled in; None if one is missing."""
        pre = llama_cpp.llama_vocab_fim_pre(self._vocab)
        suf = llama_cpp.llama_vocab_fim_suf(self._vocab)
        mid = llama_cpp.llama_vocab_fim_mid(self._vocab)
        return (pre, suf, mid) if min(pre, suf, mid) >= 0 else None

    def token_text(self, token: int) -> str:
        """The vocabulary's own spelling of a token, special ones included; "" for none."""
        return self.spelling(token).decode("utf-8", "replace") if token >= 0 else ""

    def spelling(self, token: int) -> bytes:
        """Bytes of a token, control tokens included."""
        return self._render(token, special=True)

    def control_texts(self) -> tuple[str, ...]:
        """Spellings of every control token: what must never be read as one inside a user's text."""
        return self._texts_with(_ATTR_CONTROL | _ATTR_UNKNOWN)

    @cached_property
    def marker_texts(self) -> frozenset[str]:
        """Spellings of added tokens that look like `<tool_call>`: llama.cpp reads these in any text."""
        return frozenset(filter(_MARKER.fullmatch, self._texts_with(_ATTR_USER_DEFINED)))

    def _texts_with(self, wanted: int) -> tuple[str, ...]:
        attr = llama_cpp.llama_vocab_get_attr
        tokens = (token for token in range(self.n_vocab) if attr(self._vocab, token) & wanted)
        return tuple(text for text in map(self.token_text, tokens) if text)

    @cached_property
    def marker_tokens(self) -> frozenset[int]:
        """Tokens that are no text: control tokens, ends of generation, and added ones that look like `<tool_call>`."""
        attr = llama_cpp.llama_vocab_get_attr
        hidden = _ATTR_CONTROL | _ATTR_UNKNOWN
        tokens = ((token, attr(self._vocab, token)) for token in range(self.n_vocab))
        markers = {
            token
            for token, attrs in tokens
            if attrs & hidden or (attrs & _ATTR_USER_DEFINED and _MARKER.fullmatch(self.token_text(token)))
        }
        return frozenset(markers) | self.eog_tokens

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids of `text`. `parse_special` reads `<|im_end|>` and its like as control tokens.

        Without it a `text` that is one of `marker_texts` comes in two pieces, so that it is not read as a marker.
        """
        if not parse_special and not add_special and text in self.marker_texts:
            return self.tokenize(text[:1]) + self.tokenize(text[1:])
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
