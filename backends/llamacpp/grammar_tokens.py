"""A model's vocabulary as llguidance wants it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final, Protocol

from llguidance import LLTokenizer

from backends.llamacpp.healing import PieceTable

_SENTINEL: Final = "\x02"  # merges with nothing
_LONGEST_PIECE: Final = 32


class Vocabulary(Protocol):
    """What has to be known of a model's tokens; `native.Model` is one."""

    n_vocab: int
    eos_token: int
    eog_tokens: frozenset[int]

    @property
    def marker_tokens(self) -> frozenset[int]:
        """Tokens that are no text: control tokens, and those made for markers such as `<tool_call>`."""
        ...

    def piece(self, token: int) -> bytes: ...

    def token_text(self, token: int) -> str: ...

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]: ...


class GrammarTokens:
    """A vocabulary as llguidance wants it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        markers = vocabulary.marker_tokens
        self.pieces = [b"" if token in markers else vocabulary.piece(token) for token in range(vocabulary.n_vocab)]
        self.tokenizer = LLTokenizer(
            _TokenizerWrapper(vocabulary, self.pieces),  # type: ignore[arg-type]  # it is asked for these attributes
            n_vocab=vocabulary.n_vocab,
            eos_token=sorted(vocabulary.eog_tokens | {vocabulary.eos_token}),
        )

    @cached_property
    def missing_bytes(self) -> frozenset[int]:
        return frozenset(range(256)) - {piece[0] for piece in self.pieces if len(piece) == 1}

    @cached_property
    def table(self) -> PieceTable:
        """Markers that are shown have their bytes here: an answer is searched for them."""
        return PieceTable((token, self._vocabulary.piece(token)) for token in range(self._vocabulary.n_vocab))


class _TokenizerWrapper:
    """The attributes that `LLTokenizer` reads off a tokenizer written in Python."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, pieces: Sequence[bytes]) -> None:
        markers = vocabulary.marker_tokens
        self._tokenize = vocabulary.tokenize
        self.eos_token_id = vocabulary.eos_token
        # 0xff is no byte of UTF-8: it marks what is no text.
        self.tokens = [
            b"\xff" + vocabulary.token_text(token).encode() if token in markers else piece
            for token, piece in enumerate(pieces)
        ]
        self.special_token_ids = sorted(markers)

    def __call__(self, text: str) -> list[int]:
        """Tokens that spell `text` and nothing more. Some vocabularies put a blank before every text."""
        tokens = self._tokenize(text)
        if self._spell(tokens, text):
            return tokens
        tokens = self._tokenize(_SENTINEL + text)
        for n_sentinel in range(1, 4):
            if self._spell(tokens[n_sentinel:], text):
                return tokens[n_sentinel:]
        return self._longest_first(text.encode())

    def _spell(self, tokens: list[int], text: str) -> bool:
        return b"".join(self.tokens[token] for token in tokens) == text.encode()

    def _longest_first(self, text: bytes) -> list[int]:
        """For a text that the vocabulary's own rules would change."""
        tokens: list[int] = []
        while text:
            found = (self._token_of.get(text[:size]) for size in range(_LONGEST_PIECE, 0, -1))
            token = next((token for token in found if token is not None), None)
            if token is None:
                return tokens
            tokens.append(token)
            text = text[len(self.tokens[token]) :]
        return tokens

    @cached_property
    def _token_of(self) -> dict[bytes, int]:
        return {piece: token for token, piece in enumerate(self.tokens) if piece}
