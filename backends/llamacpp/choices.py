"""The choices of one request while they are generated."""

from __future__ import annotations

from backends.llamacpp.engine import LlamaEngine
from backends.llamacpp.prompts import Prompt
from backends.llamacpp.reasoning import Channel, ReasoningFormat, ReasoningSplitter
from backends.llamacpp.responses import Usage
from backends.llamacpp.step_loop import Delta, Finish, Generation


class Choices:
    """The generations of one request: what is split off them as reasoning, how they ended, what they used.

    `chat` is the prompt of a chat, whose answers may hold reasoning; None for texts, which are shown as they are.
    """

    def __init__(self, engine: LlamaEngine, generations: list[Generation], *, chat: Prompt | None) -> None:
        self.engine = engine
        self.generations = generations
        self._splitters = [_splitter(engine.prompts.reasoning, chat) for _ in generations]
        self.finishes: list[Finish] = [Finish.ERROR] * len(generations)
        self._n_generated = [0] * len(generations)
        self._n_reused = [0] * len(generations)

    def take(self, index: int, delta: Delta) -> list[tuple[Channel, str]]:
        """Text that a delta makes certain, by channel."""
        self._n_generated[index] = delta.n_generated
        self._n_reused[index] = max(self._n_reused[index], delta.n_reused)
        splitter = self._splitters[index]
        pieces = list(splitter.push(delta.text)) if splitter else [(Channel.CONTENT, delta.text)]
        if delta.finish is not None:
            self.finishes[index] = delta.finish
            pieces += splitter.finish() if splitter else []
        return [(channel, text) for channel, text in pieces if text]

    def usage(self) -> Usage:
        """A prompt that several choices share is counted once, as OpenAI does, and so is what was found of it."""
        prompts = {id(generation.prompt): len(generation.prompt) for generation in self.generations}
        n_cached = dict(prompts)
        for generation, n_reused in zip(self.generations, self._n_reused, strict=True):
            n_cached[id(generation.prompt)] = min(n_cached[id(generation.prompt)], n_reused)
        return Usage(sum(prompts.values()), sum(self._n_generated), sum(n_cached.values()))


def _splitter(format_: ReasoningFormat | None, prompt: Prompt | None) -> ReasoningSplitter | None:
    if format_ is None or prompt is None:
        return None
    has_begun = prompt.n_begun_tokens > 0
    return ReasoningSplitter(
        format_,
        starts_inside=prompt.inside_reasoning,
        after_marker=prompt.inside_reasoning and not has_begun,
        answered=has_begun and not prompt.inside_reasoning,
    )
