"""Texts of a length in tokens, without the model's tokenizer: its server counts what it was given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from bench.measuring.load import Request, Target, connect, send, stream_body
from bench.workloads.clinic import LANGUAGES, Language
from bench.workloads.clinic_records import TASKS, lines

_N_LINES: Final = 13
_LIMIT_S: Final = 300.0
_MARGIN: Final = 0.01
"""Records differ in their numbers, so by so much in their tokens per character."""


@dataclass(frozen=True, slots=True)
class Density:
    """`n_around` tokens of a chat's prompt are the template's and the task's, at the most."""

    tokens_per_char: Mapping[Language, float]
    n_around: int


TYPICAL: Final = Density({"en": 0.36, "vi": 0.48, "zh": 0.86}, 60)
"""Of tokenizers that know all three languages, nearly."""


class NoCount(Exception):
    """The server does not answer, or does not tell how many tokens a prompt has."""


async def density_of(target: Target) -> Density:
    """As the target counts. Raises `NoCount`."""
    densities: dict[Language, float] = {}
    n_around = 0
    for language in LANGUAGES:
        text = _joined(islice(lines(language, "density"), _N_LINES))
        n_empty = await _count(target, TASKS[language])
        n_full = await _count(target, f"{text}\n\n{TASKS[language]}")
        densities[language] = (n_full - n_empty) / len(text)
        n_around = max(n_around, n_empty)
    return Density(densities, n_around)


async def _count(target: Target, text: str) -> int:
    request = Request(sent_s=0.0)
    body = {**stream_body(target, 1), "messages": [{"role": "user", "content": text}]}
    async with connect(target) as session:
        await send(session, "/v1/chat/completions", body, request, timeout_s=_LIMIT_S)
    if request.error is not None or not request.prompt_tokens:
        raise NoCount(f"{target.name} did not count a prompt: {request.error or 'no usage in its answer'}")
    return request.prompt_tokens


def record(language: Language, seed: str, n_tokens: int, density: Density) -> str:
    """A record with the task at its end, in so many tokens with what is around it, or a little fewer."""
    sentences = ((language, line) for line in lines(language, seed))
    return f"{text_of(sentences, n_tokens - density.n_around, density)}\n\n{TASKS[language]}"


def text_of(sentences: Iterable[tuple[Language, str]], n_tokens: int, density: Density) -> str:
    """As many of the sentences as have room, and of the next as much as has."""
    n_left = n_tokens * (1 - _MARGIN)
    kept: list[str] = []
    for language, sentence in sentences:
        tokens_per_char = density.tokens_per_char[language]
        kept.append(sentence[: max(int(n_left / tokens_per_char), 0)])
        n_left -= (len(sentence) + 1) * tokens_per_char
        if n_left <= 0:
            return _joined(kept)
    return _joined(kept)


def _joined(sentences: Iterable[str]) -> str:
    return "\n".join(sentences)
