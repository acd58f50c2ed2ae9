"""What a fake engine that counts has to say to a request, so that a word lost or doubled on the way is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.backends.fake_engine import numbered


@dataclass(frozen=True, slots=True)
class CountedAnswer:
    """`reasoning` is that of a chat; `n_tokens` counts the words of both."""

    reasoning: str
    content: str
    finish: str
    n_tokens: int


def counted_answer(body: Mapping[str, Any], *, n_words: int, n_thoughts: int = 0) -> CountedAnswer:
    """Of an engine with `--answer-words` and `--reasoning-words`, to a body that asks for no more than one choice."""
    thoughts = () if "prompt" in body else numbered("r", n_thoughts)
    words = numbered("w", n_words)
    budget = body.get("max_tokens") or len(thoughts) + len(words)
    shown = thoughts[:budget], words[: max(budget - len(thoughts), 0)]
    n_shown = len(shown[0]) + len(shown[1])
    finish = "stop" if n_shown == len(thoughts) + len(words) else "length"
    return CountedAnswer("".join(shown[0]), "".join(shown[1]), finish, n_shown)
