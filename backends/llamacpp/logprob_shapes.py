"""Rated tokens in OpenAI's two shapes, as vLLM fills them: every token that was generated, also those not shown."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from backends.llamacpp.logprobs import RatedToken

Spell = Callable[[int], bytes]
"""Bytes of a token, control tokens included: part of a character at times."""


def joined(portions: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """What was taken in several portions, as if it had been one; None where there was none."""
    whole: dict[str, Any] = {}
    for portion in portions:
        for name, entries in portion.items():
            whole.setdefault(name, []).extend(entries)
    return whole or None


class ChatLogprobs:
    """`{"content": [{token, logprob, bytes, top_logprobs}]}` of one choice, whose tokens come in any portions."""

    def __init__(self, spell: Spell) -> None:
        self._spell = spell

    def take(self, rated: Sequence[RatedToken]) -> dict[str, Any]:
        return {
            "content": [
                {
                    **self._entry(one.token, one.logprob),
                    "top_logprobs": [self._entry(token, logprob) for token, logprob in one.top],
                }
                for one in rated
            ]
        }

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        spelling = self._spell(token)
        return {"token": spelling.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(spelling)}


class TextLogprobs:
    """`{tokens, token_logprobs, top_logprobs, text_offset}`, parallel lists.

    The likeliest are a dictionary that always holds the token itself, as OpenAI has it. `text_offset` counts the
    characters that the tokens before have shown. `show`: the bytes that a token adds to the text.
    """

    def __init__(self, spell: Spell, show: Spell) -> None:
        self._spell = spell
        self._show = show
        self._offset = 0
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def take_prompt(self, rated: Sequence[RatedToken], text: str) -> dict[str, Any]:
        """`text` is the prompt's, which a token at its beginning, or a blank before its first word, is no part of."""
        portion = self._portion(rated, self._spell)
        n_extra = self._offset - len(text)
        portion["text_offset"] = [max(offset - n_extra, 0) for offset in portion["text_offset"]]
        self._offset = len(text)
        return portion

    def take(self, rated: Sequence[RatedToken]) -> dict[str, Any]:
        return self._portion(rated, self._show)

    def _portion(self, rated: Sequence[RatedToken], show: Spell) -> dict[str, Any]:
        offsets = []
        for one in rated:
            offsets.append(self._offset)
            self._offset += len(self._decode(show(one.token)))
        return {
            "tokens": [self._text(one.token) for one in rated],
            "token_logprobs": [one.logprob for one in rated],
            "top_logprobs": [self._likeliest(one) for one in rated],
            "text_offset": offsets,
        }

    def _likeliest(self, one: RatedToken) -> dict[str, float] | None:
        if one.logprob is None:
            return None
        likeliest: dict[str, float] = {}
        for token, logprob in ((one.token, one.logprob), *one.top):
            likeliest.setdefault(self._text(token), logprob)
        return likeliest

    def _text(self, token: int) -> str:
        return self._spell(token).decode("utf-8", "replace")
