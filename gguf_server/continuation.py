"""How an answer that one engine began goes on at another: what was said so far, the body that asks for the rest, and
the rest's events made to look like those before.

The answer so far becomes the beginning of the assistant's message (of the prompt, for a text completion); what it has
cost of `max_tokens` is spent; the ids of the first engine's chunks stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gguf_server import events

_HEAD: Final = ("id", "object", "created", "model", "system_fingerprint")
_GRAMMARS: Final = (
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
)


class CannotContinue(Exception):
    """The message says why, in a sentence for the client."""


@dataclass(slots=True)
class Begun:
    """What a client has been sent of one answer. `head`: the fields that all chunks share.

    `indexes` and `finished` are numbers of choices: those begun, and those with a finish reason.
    """

    head: dict[str, Any] = field(default_factory=dict)
    reasoning: str = ""
    content: str = ""
    indexes: set[int] = field(default_factory=set)
    finished: set[int] = field(default_factory=set)
    has_tool_call: bool = False

    @property
    def is_silent(self) -> bool:
        """Nothing but roles: the request may as well be made anew."""
        return not (self.reasoning or self.content or self.has_tool_call or self.finished)

    def is_finished(self, body: Mapping[str, Any]) -> bool:
        """Whether every choice that `body` asked for has been told to its end."""
        prompt = body.get("prompt")
        n_prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
        return len(self.finished) >= n_prompts * (body.get("n") or 1)


def read(sent: Iterable[bytes]) -> Begun:
    """What the events sent so far have said."""
    begun = Begun()
    for whole in sent:
        for event in events.split(whole):
            chunk = events.decode(event)
            if chunk is None:
                continue
            if not begun.head:
                begun.head = {key: chunk[key] for key in _HEAD if key in chunk}
            for choice in chunk.get("choices") or ():
                _add(begun, choice)
    return begun


def _add(begun: Begun, choice: Mapping[str, Any]) -> None:
    delta = choice.get("delta") or {}
    begun.indexes.add(choice.get("index", 0))
    begun.reasoning += delta.get("reasoning_content") or delta.get("reasoning") or ""
    begun.content += delta.get("content") or choice.get("text") or ""
    begun.has_tool_call = begun.has_tool_call or bool(delta.get("tool_calls") or delta.get("function_call"))
    if choice.get("finish_reason") is not None:
        begun.finished.add(choice.get("index", 0))


def check(body: Mapping[str, Any], begun: Begun) -> None:
    """Raises `CannotContinue` where no engine could know how to go on."""
    if (body.get("n") or 1) > 1 or len(begun.indexes) > 1 or (body.get("best_of") or 1) > 1:
        raise CannotContinue("several choices were being written")
    if begun.has_tool_call:
        raise CannotContinue("a tool call was half written")
    formats = {name: body[name] for name in _GRAMMARS if body.get(name) and body[name] != {"type": "text"}}
    if formats or body.get("tool_choice") not in (None, "auto", "none"):
        raise CannotContinue("the answer was being held to a grammar")
    if "messages" not in body and (body.get("echo") or body.get("logprobs") or body.get("suffix")):
        raise CannotContinue("the completion had echo, logprobs or a suffix")
    if "messages" not in body and not isinstance(body.get("prompt"), str):
        raise CannotContinue("the prompt was not one text")
    if body.get("continue_final_message") and not isinstance(body["messages"][-1].get("content"), str):
        raise CannotContinue("the message to be continued was not one text")


def continued(body: Mapping[str, Any], begun: Begun, *, n_said: int, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The body that asks for the rest. `n_said`: tokens said so far; `fields`: how this engine is told to go on.

    The caller has seen to it that `max_tokens` is more than `n_said`.
    """
    asked = dict(body)
    for budget in ("max_tokens", "min_tokens", "thinking_token_budget"):
        if isinstance(asked.get(budget), int):
            asked[budget] = max(asked[budget] - n_said, 0)
    if begun.content:
        asked.pop("thinking_token_budget", None)  # the thinking is over
    if "messages" not in body:
        return {**asked, "prompt": body["prompt"] + begun.content}
    messages = list(body["messages"])
    final: dict[str, Any] = {"role": "assistant", "content": ""}
    if body.get("continue_final_message"):
        final = dict(messages.pop())
    final["content"] += begun.content
    if begun.reasoning:
        final["reasoning_content"] = final["reasoning"] = (final.get("reasoning_content") or "") + begun.reasoning
    return {**asked, **fields, "messages": [*messages, final]}


@dataclass(slots=True)
class Seam:
    """Makes a second engine's events go on where the first one's stopped; `rewrite` is for `EventStream.relay`.

    `engine`: who answers from here, told once in `x_engine` beside the chunk's own fields, since the headers are gone.
    `n_said`, `n_reasoned`: tokens the client was sent before, for the usage.
    """

    head: Mapping[str, Any]
    engine: str
    n_failovers: int
    n_said: int = 0
    n_reasoned: int = 0
    _told: bool = False

    def rewrite(self, event: bytes) -> bytes:
        chunk = events.decode(event)
        if chunk is None:
            return event
        chunk |= self.head
        if usage := chunk.get("usage"):
            chunk["usage"] = self._whole_usage(usage)
        choices = chunk.get("choices") or []
        chunk["choices"] = [choice for choice in choices if not _is_opening(choice)]
        if choices and not chunk["choices"]:
            return b""
        if not self._told:
            self._told = True
            chunk |= {"x_engine": self.engine, "x_engine_failovers": self.n_failovers}
        return events.encode(chunk)

    def _whole_usage(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        """As one engine would have counted: what was said before is no prompt."""
        n_prompt = max(int(usage.get("prompt_tokens") or 0) - self.n_said, 0)
        n_completion = int(usage.get("completion_tokens") or 0) + self.n_said
        counts = {"prompt_tokens": n_prompt, "completion_tokens": n_completion, "total_tokens": n_prompt + n_completion}
        details = usage.get("completion_tokens_details")
        if isinstance(details, dict) and self.n_reasoned:
            n_reasoning = int(details.get("reasoning_tokens") or 0) + self.n_reasoned
            counts["completion_tokens_details"] = {**details, "reasoning_tokens": n_reasoning}  # type: ignore[assignment]
        return {**usage, **counts}


def _is_opening(choice: dict[str, Any]) -> bool:
    """Takes the role out of a delta: it was sent. True where nothing else was in it."""
    delta = choice.get("delta")
    if not isinstance(delta, dict) or delta.pop("role", None) is None:
        return False
    said = any(value not in (None, "", []) for value in delta.values())
    return not said and choice.get("finish_reason") is None
