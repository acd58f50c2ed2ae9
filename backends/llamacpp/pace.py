"""How much of the waiting prompts a step may take, so that running answers are not kept waiting for long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PROMPT_STEP_S: Final = 0.25
"""A step with prompt pieces in it should take about this long: the gap that a running answer is made to wait."""

LONGEST_PROMPT_STEP_S: Final = 0.5
"""The same while as many wait for their first word as are being answered: most are served by getting them there."""

MIN_PROMPT_BUDGET: Final = 64


@dataclass(slots=True)
class Pace:
    """How many prompt tokens fit into a step, from how fast the last ones were computed."""

    tokens_per_s: float = 0.0

    def budget(self, n_batch: int, *, n_answering: int = 1, n_unanswered: int = 1) -> int:
        """Prompt tokens of the next step, with so many sequences being answered and so many before their answer."""
        if not self.tokens_per_s:
            return min(n_batch, 4 * MIN_PROMPT_BUDGET)
        share = min(1.0, n_unanswered / max(n_answering, 1))
        step_s = max(PROMPT_STEP_S, share * LONGEST_PROMPT_STEP_S)
        return max(MIN_PROMPT_BUDGET, min(n_batch, int(self.tokens_per_s * step_s)))

    def learn(self, n_prompt_tokens: int, elapsed_s: float) -> None:
        if n_prompt_tokens >= MIN_PROMPT_BUDGET // 2:
            seen = n_prompt_tokens / max(elapsed_s, 1e-6)
            self.tokens_per_s = seen if not self.tokens_per_s else 0.7 * self.tokens_per_s + 0.3 * seen
