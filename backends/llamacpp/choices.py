"""The choices of one request while they are generated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backends.llamacpp.engine import LlamaEngine
from backends.llamacpp.generation import Delta, Finish, Generation
from backends.llamacpp.logprob_shapes import ChatLogprobs, TextLogprobs, joined
from backends.llamacpp.prompts import Prompt
from backends.llamacpp.reasoning import Channel, ReasoningFormat, ReasoningSplitter
from backends.llamacpp.responses import Piece, Usage
from backends.llamacpp.tools.calls import CallDelta
from backends.llamacpp.tools.splitter import ToolSplitter


@dataclass(frozen=True, slots=True)
class Display:
    """What of the answers is shown. `n_best` of those to each prompt, None for all of them."""

    logprobs: bool = False
    reasoning: bool = True
    n_best: int | None = None


@dataclass(slots=True)
class _Rating:
    """How likely a choice was, by its tokens."""

    total: float = 0.0
    n_tokens: int = 0

    @property
    def mean(self) -> float:
        return self.total / self.n_tokens if self.n_tokens else -float("inf")


class Choices:
    """The generations of one request: what is split off them as reasoning and calls, how they ended, what they used.

    `chat` is the prompt of a chat, whose answers may hold reasoning; None for texts, which are shown as they are.
    `echoes`: by generation, the text of a prompt that is shown before its answer. `is_bound`: the answer is held to a
    shape, in which a reasoning marker is text like any other. `tools`: a new splitter for each choice, where tools may
    be called.
    """

    def __init__(
        self,
        engine: LlamaEngine,
        generations: list[Generation],
        *,
        chat: Prompt | None,
        display: Display | None = None,
        echoes: Sequence[str | None] = (),
        is_bound: bool = False,
        tools: Callable[[], ToolSplitter] | None = None,
    ) -> None:
        self.engine = engine
        self.generations = generations
        self._display = display or Display()
        self._echoes = list(echoes) or [None] * len(generations)
        self._to_echo = list(self._echoes)
        reasoning = engine.prompts.reasoning
        if reasoning is not None and is_bound:
            reasoning = replace(reasoning, only_first=True)
        self._splitters = [_splitter(reasoning, chat) for _ in generations]
        self._rated = [self._shape(generation, is_chat=chat is not None) for generation in generations]
        self._ratings = [_Rating() for _ in generations]
        self._tool_splitters = [tools() if tools else None for _ in generations]
        self.finishes: list[Finish] = [Finish.ERROR] * len(generations)
        self.failure = "the engine failed inside this request"
        self._n_generated = [0] * len(generations)
        self._n_reused = [0] * len(generations)
        self._n_reasoning = [0] * len(generations)

    def take(self, index: int, delta: Delta) -> list[Piece]:
        """What a delta makes certain, by channel."""
        self._n_generated[index] = delta.n_generated
        self._n_reused[index] = max(self._n_reused[index], delta.n_reused)
        self._n_reasoning[index] = delta.n_reasoning
        echo, self._to_echo[index] = self._to_echo[index] or "", None
        splitter = self._splitters[index]
        pieces = list(splitter.push(delta.text)) if splitter else [(Channel.CONTENT, echo + delta.text)]
        if delta.finish is not None:
            self.finishes[index] = delta.finish
            self.failure = delta.failure or self.failure
            pieces += splitter.finish() if splitter else []
        told = [piece for piece in pieces if piece[1] and self._shows(piece[0])]
        tools = self._tool_splitters[index]
        return list(_with_calls(tools, told, ends=delta.finish is not None)) if tools else list[Piece](told)

    def logprobs(self, index: int, delta: Delta) -> dict[str, Any] | None:
        """Those of a delta's tokens, also where their text is held back; None where they are not to be shown."""
        rating = self._ratings[index]
        rating.total += sum(one.logprob or 0.0 for one in delta.rated)
        rating.n_tokens += len(delta.rated)
        shape = self._rated[index]
        rated = [one for one in delta.rated if self._display.reasoning or not one.is_thought]
        portions = []
        if isinstance(shape, TextLogprobs) and delta.rated_prompt:
            portions.append(shape.take_prompt(delta.rated_prompt, self._echoes[index] or ""))
        if shape is not None and rated:
            portions.append(shape.take(rated))
        return joined(portions)

    def shown(self) -> list[int]:
        """The choices that are answered with, in their order."""
        n_best = self._display.n_best
        if n_best is None:
            return list(range(len(self.generations)))
        by_prompt: dict[int, list[int]] = {}
        for index, generation in enumerate(self.generations):
            by_prompt.setdefault(id(generation.prompt), []).append(index)
        best = (sorted(of_one, key=lambda i: -self._ratings[i].mean)[:n_best] for of_one in by_prompt.values())
        return [index for of_one in best for index in of_one]

    def finish_reason(self, index: int) -> str:
        """As OpenAI names it."""
        tools = self._tool_splitters[index]
        has_called = tools is not None and tools.n_calls > 0
        return "tool_calls" if has_called and self.finishes[index] is Finish.STOP else str(self.finishes[index])

    def usage(self) -> Usage:
        """A prompt that several choices share is counted once, as OpenAI does, and so is what was found of it."""
        prompts = {id(generation.prompt): len(generation.prompt) for generation in self.generations}
        n_cached = dict(prompts)
        for generation, n_reused in zip(self.generations, self._n_reused, strict=True):
            n_cached[id(generation.prompt)] = min(n_cached[id(generation.prompt)], n_reused)
        n_reasoning = sum(self._n_reasoning) if any(one.thought for one in self.generations) else None
        return Usage(sum(prompts.values()), sum(self._n_generated), sum(n_cached.values()), n_reasoning)

    def _shows(self, channel: Channel) -> bool:
        return self._display.reasoning or channel is not Channel.REASONING

    def _shape(self, generation: Generation, *, is_chat: bool) -> ChatLogprobs | TextLogprobs | None:
        if not self._display.logprobs:
            return None
        model = self.engine.loaded.model
        if is_chat:
            return ChatLogprobs(model.spelling)
        return TextLogprobs(model.spelling, model.spelling if generation.shows_control else model.piece)


def _with_calls(tools: ToolSplitter, pieces: list[tuple[Channel, str]], *, ends: bool) -> Iterator[Piece]:
    """Pieces of a choice with its calls told from its content."""
    for channel, text in pieces:
        if channel is Channel.CONTENT:
            yield from map(_piece, tools.push(text))
        else:
            yield channel, text
    if ends:
        yield from map(_piece, tools.finish())


def _piece(said: str | CallDelta) -> Piece:
    return (Channel.CONTENT if isinstance(said, str) else Channel.CALLS), said


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
