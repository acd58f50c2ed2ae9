"""What a tokeniser is made of, in GGUF's terms."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import Any

from gguf import TokenType

# Separated by blanks. Enough for prompts that read like prompts; first those of chat templates, which become one token
# each, as in the real vocabularies.
WORDS = (
    "system user assistant model thought tool call response declaration "
    "the of and to in is you that it he was for on are as with his they I at be this have from or one had by word but "
    "not what all were we when your can said there use an each which she do how their if will up other about out many "
    "then them these so some her would make like him into time has look two more write go see number no way could "
    "people my than first water been call who its now find long down day did get come made may part over new sound "
    "take only little work know place year live me back give most very after thing our just name good sentence man "
    "think say great where help through much before line right too mean old any same tell boy follow came want show "
    "sky blue why because weather city arguments function properties description string number object required type "
    "value true false null"
)


@dataclass(slots=True)
class Vocabulary:
    """Tokens with their types, merges in order of rank. `quiet` are those a model does not say by itself.

    `special` names GGUF's special tokens: `bos`, `eos`, `unknown`, `seperator`, `padding`, `mask`.
    """

    model: str
    pre: str = ""
    tokens: list[str] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    quiet: set[int] = field(default_factory=set)
    special: dict[str, int] = field(default_factory=dict)
    add_bos: bool = False
    add_eos: bool = False
    chat_template: str = ""
    _ids: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, text: str) -> int:
        return self._ids[text]

    def add(self, text: str, type_: TokenType = TokenType.NORMAL, *, quiet: bool = False) -> None:
        """A token that is there already stays what it is."""
        if text in self._ids:
            return
        self._ids[text] = len(self.tokens)
        if quiet or type_ != TokenType.NORMAL:
            self.quiet.add(len(self.tokens))
        self.tokens.append(text)
        self.types.append(int(type_))

    def add_all(self, texts: str | Iterable[str], type_: TokenType = TokenType.NORMAL) -> None:
        """`texts`: one by one, or separated by blanks."""
        for text in texts.split() if isinstance(texts, str) else texts:
            self.add(text, type_)

    def add_words(self, space: str) -> None:
        """`WORDS`, each with and without `space` before it."""
        for word in WORDS.split():
            self._add_word(word)
            self._add_word(space + word)

    def _add_word(self, word: str) -> None:
        """A word and all its beginnings, each merged from the one before and the next character."""
        for end in range(2, len(word) + 1):
            merge = f"{word[: end - 1]} {word[end - 1]}"
            if word[:end] not in self._ids:
                self.add(word[:end])
                self.merges.append(merge)

    def name_special(self, named: Mapping[str, str]) -> None:
        self.special.update({name: self[text] for name, text in named.items()})

    def pad(self, n_vocab: int, space: str) -> None:
        """Up to `n_vocab` tokens: words of four letters, which no merge leads to."""
        letters = map("".join, itertools.product(ascii_lowercase, repeat=4))
        while len(self.tokens) < n_vocab:
            self.add(space + next(letters))

    def write(self, writer: Any) -> None:
        writer.add_tokenizer_model(self.model)
        if self.pre:
            writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.merges:
            writer.add_token_merges(self.merges)
        for name, token in self.special.items():
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)
