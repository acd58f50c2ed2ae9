"""A vocabulary that a test can see through: a token for every byte, and some words."""

from __future__ import annotations


class TinyVocabulary:
    """`words` are tokens 256 and up, `markers` those behind them, `</s>` the last one. The longest word is taken."""

    def __init__(self, words: tuple[str, ...] = (), markers: tuple[str, ...] = ()) -> None:
        self._pieces = [bytes([byte]) for byte in range(256)] + [text.encode() for text in (*words, *markers)]
        self._markers = {text: 256 + len(words) + i for i, text in enumerate(markers)}
        self.eos_token = len(self._pieces)
        self._pieces.append(b"")
        self.n_vocab = len(self._pieces)
        self.eog_tokens = frozenset({self.eos_token})
        self.marker_tokens = frozenset({*self._markers.values(), self.eos_token})

    def piece(self, token: int) -> bytes:
        return self._pieces[token]

    def token_text(self, token: int) -> str:
        return self._pieces[token].decode("utf-8", "replace") or "</s>"

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        tokens = []
        raw = text.encode()
        known = (
            range(256, self.n_vocab - 1) if parse_special else set(range(256, self.n_vocab - 1)) - self.marker_tokens
        )
        while raw:
            fitting = [token for token in known if raw.startswith(self._pieces[token])]
            token = max(fitting, key=lambda token: len(self._pieces[token]), default=raw[0])
            tokens.append(token)
            raw = raw[len(self._pieces[token]) :]
        return tokens
