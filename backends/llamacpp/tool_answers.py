"""How a chat with tools is answered: what holds its calls to their schemas, and what tells them from its content."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from backends.llamacpp.engine import LlamaEngine
from backends.llamacpp.generation import Generation
from backends.llamacpp.guide import MakeGuide
from backends.llamacpp.prompts import Prompt
from backends.llamacpp.requests import ApiError
from backends.llamacpp.tools.calls import ToolUse
from backends.llamacpp.tools.declared import ToolError
from backends.llamacpp.tools.held import CallGrammars
from backends.llamacpp.tools.splitter import ToolSplitter


class ToolAnswers(NamedTuple):
    """The generations of a chat, and a splitter for each."""

    generations: list[Generation]
    splitter: Callable[[], ToolSplitter]


async def with_calls(engine: LlamaEngine, generations: list[Generation], prompt: Prompt, use: ToolUse) -> ToolAnswers:
    """Answers that may be calls, or have to be: stop strings could only spoil those.

    Raises `ApiError` 400, naming the field.
    """
    try:
        held = await CallGrammars(engine.grammars, prompt.tools).hold(use)
    except ToolError as error:
        raise ApiError(400, str(error), code="invalid_value", param=error.param) from error
    if held.make is None:
        return ToolAnswers(generations, prompt.tools.splitter)
    guide = await _behind_thought(engine, prompt, held.make, may_end=held.may_end)
    made = [replace(one, guides=(*one.guides, guide), stops=() if use.required else one.stops) for one in generations]
    return ToolAnswers(made, partial(prompt.tools.splitter, held=True))


def without_calls(engine: LlamaEngine, generations: list[Generation], prompt: Prompt) -> list[Generation]:
    """Answers that are no calls, though tools are shown: the token that would begin one is never said."""
    model = engine.loaded.model
    tokens = model.tokenize(prompt.tools.opening, parse_special=True)
    if len(tokens) > 1:
        return generations
    sampling = generations[0].sampling
    banned = {**sampling.logit_bias, tokens[0]: -math.inf}
    return [replace(one, sampling=replace(one.sampling, logit_bias=banned)) for one in generations]


async def _behind_thought(engine: LlamaEngine, prompt: Prompt, make: MakeGuide, *, may_end: bool) -> MakeGuide:
    """A guide that begins where the thought has ended, or at once where there is none."""
    reasoning = engine.prompts.reasoning
    is_answering = prompt.after_reasoning or (prompt.n_begun_tokens > 0 and not prompt.inside_reasoning)
    if reasoning is None or is_answering:
        return make
    rule = await engine.grammars.after_marker(reasoning.closing, make, opening=reasoning.opening, may_end=may_end)
    return rule.begin_inside if prompt.inside_reasoning else rule.begin
