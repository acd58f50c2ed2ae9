"""Texts of a length in tokens, without the model's tokenizer: its server counts what it was given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from bench.clinic import LANGUAGES, Language
from bench.clinic_records import TASKS, lines
from bench.load import Request, Target, connect, send, stream_body

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
    text = _cut(lines(language, seed), n_tokens - density.n_around, density.tokens_per_char[language])
    return f"{text}\n\n{TASKS[language]}"


def text_of(sentences: Iterable[str], languages: Sequence[Language], n_tokens: int, density: Density) -> str:
    """The first of the sentences, which are in these languages in equal parts."""
    mean = sum(density.tokens_per_char[language] for language in languages) / len(languages)
    return _cut(sentences, n_tokens, mean)


def _cut(sentences: Iterable[str], n_tokens: int, tokens_per_char: float) -> str:
    """Whole sentences as long as they fit, and of the next as much as does."""
    n_chars = int(n_tokens * (1 - _MARGIN) / tokens_per_char)
    kept: list[str] = []
    for sentence in sentences:
        if n_chars <= 0:
            break
        kept.append(sentence[:n_chars])
        n_chars -= len(sentence) + 1
    return _joined(kept)


def _joined(sentences: Iterable[str]) -> str:
    return "\n".join(sentences)
