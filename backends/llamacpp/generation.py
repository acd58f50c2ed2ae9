"""What is asked of the step thread, and what it tells: a `Generation` in, `Delta`s out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from backends.llamacpp.guide import MakeGuide
from backends.llamacpp.healing import Healing
from backends.llamacpp.image_runs import ImageRun
from backends.llamacpp.logprobs import RatedToken
from backends.llamacpp.sampling import SamplingParams
from backends.llamacpp.thought import ThoughtLimit


class Finish(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Generation:
    """What is asked for: a prompt in tokens and how to go on from it.

    The last `n_begun_tokens` of the prompt are the answer's own beginning. With `healing` the very last is not read
    but said again, which neither shows nor counts.

    `n_logprobs`: each token is rated beside so many of the likeliest; None for no rating. `scores_prompt`: the
    prompt's tokens too. `shows_stop`: the text ends with what ended it; `shows_control`: control tokens are text.
    """

    prompt: list[int]
    max_tokens: int
    sampling: SamplingParams
    stops: tuple[str, ...] = ()
    shows_stop: bool = False
    shows_control: bool = False
    n_begun_tokens: int = 0
    healing: Healing | None = None
    guides: tuple[MakeGuide, ...] = ()
    thought: ThoughtLimit | None = None
    n_logprobs: int | None = None
    scores_prompt: bool = False
    images: tuple[ImageRun, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """News of one generation: more text, and how it ended when it has. Counts are of tokens so far.

    `rated` are the tokens that are new, where they were to be rated; `rated_prompt` comes once, with the first of them.
    `failure`: why it ended in an error, where that lies in the request.
    """

    generation_id: int
    text: str
    n_generated: int
    finish: Finish | None = None
    n_reused: int = 0
    n_reasoning: int = 0
    rated: tuple[RatedToken, ...] = ()
    rated_prompt: tuple[RatedToken, ...] = ()
    failure: str | None = None


def joined(deltas: list[Delta]) -> Delta:
    """News of one generation, as if they had come at once."""
    if len(deltas) == 1:
        return deltas[0]
    return replace(
        deltas[-1],
        text="".join(delta.text for delta in deltas),
        rated=tuple(rated for delta in deltas for rated in delta.rated),
        rated_prompt=deltas[0].rated_prompt,
    )
