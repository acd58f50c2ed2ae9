"""One answer as the scheduler sees it, and the part of it that a step computes."""

from __future__ import annotations

from dataclasses import dataclass

from backends.llamacpp.image_runs import ImageRun, position_of


@dataclass(slots=True, eq=False)
class Sequence:
    """One answer being made. `tokens` is the prompt, then what was generated; the first `n_past` are in the cache.

    `n_repeated_tokens` of the generated ones say again what the prompt's text had said already: they do not count.
    `score_from`: the logits of every prompt token from this one on are wanted too; None for the last one's alone.
    Where `images` are, tokens are below 0.
    """

    tokens: list[int]
    n_prompt_tokens: int
    max_tokens: int
    seq_id: int | None = None
    n_past: int = 0
    n_reused_tokens: int = 0
    n_repeated_tokens: int = 0
    came_at: int = 0
    n_preempted: int = 0
    score_from: int | None = None
    images: tuple[ImageRun, ...] = ()

    def position_of(self, index: int) -> int:
        """llama.cpp's position of a token; an image may take fewer positions than tokens."""
        return position_of(self.images, index) if self.images else index

    @property
    def n_generated_tokens(self) -> int:
        return len(self.tokens) - self.n_prompt_tokens - self.n_repeated_tokens

    @property
    def n_pending_tokens(self) -> int:
        """Tokens to compute before the next one can be sampled; 1 while decoding."""
        return len(self.tokens) - self.n_past

    @property
    def is_decoding(self) -> bool:
        return self.n_pending_tokens == 1 and len(self.tokens) > self.n_prompt_tokens


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens `start` to `start + n_tokens` of a sequence; a next token is wanted when they are its last.

    All are text, or all of one `image`: then it is the only piece of its step.
    `draft` are guesses of what follows, computed behind them: their cells count for nothing until they are accepted.
    """

    sequence: Sequence
    seq_id: int
    start: int
    n_tokens: int
    image: ImageRun | None = None
    draft: tuple[int, ...] = ()

    @property
    def wants_logits(self) -> bool:
        return self.start + self.n_tokens == len(self.sequence.tokens)

    @property
    def n_rows(self) -> int:
        return self.n_tokens + len(self.draft)

    @property
    def n_outputs(self) -> int:
        """How many of its last rows have their logits wanted."""
        score_from = self.sequence.score_from
        n_scored = 0 if score_from is None else self.start + self.n_tokens - max(self.start, score_from)
        return max(n_scored, int(self.wants_logits)) + len(self.draft)
