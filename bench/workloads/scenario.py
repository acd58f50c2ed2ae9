"""What people ask of a server, apart from how many of them there are and when they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from bench.measuring.load import Request, Target, stream_body
from bench.records.record import Scalar, WorkloadRecord

Content = str | list[dict[str, object]]
"""A message's: text, or OpenAI's list of parts."""

_KEEPS_GOING: Final = frozenset({"ignore_eos", "logit_bias", "min_tokens"})
"""Fields of a target that put off the end of an answer."""


@dataclass(frozen=True, slots=True)
class Script:
    """What one person says, turn by turn; each turn is sent with all that was said before."""

    says: tuple[Content, ...]
    system: str = ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """`script` makes what person `number` says from a seed and that number, and from nothing else.

    Unless the answer `ends_freely`, the target's extra fields have to make it exactly `max_tokens` long, so that
    all targets do the same work. `check` says what is wrong with a finished answer; it is called when the load is
    over. Without `is_chat`, the first thing a person says goes to `/v1/completions`.
    """

    name: str
    script: Callable[[str, int], Script]
    description: str = ""
    max_tokens: int = 128
    ends_freely: bool = False
    fields: Mapping[str, object] = field(default_factory=dict)
    check: Callable[[Request], str | None] = lambda request: None
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    is_chat: bool = True
    timeout_s: float = 600.0

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self.is_chat else "/v1/completions"

    def record(self, **more: Scalar) -> WorkloadRecord:
        """For a report; `more` is what only the caller knows, such as the seed."""
        own = {"max_tokens": self.max_tokens, "ends_freely": self.ends_freely, "is_chat": self.is_chat}
        return WorkloadRecord(self.name, self.description, {**own, **self.parameters, **more})

    def body(self, target: Target, messages: list[dict[str, object]]) -> dict[str, object]:
        common = {**stream_body(target, self.max_tokens), **self.fields}
        if self.ends_freely:
            common = {name: value for name, value in common.items() if name not in _KEEPS_GOING}
        return {**common, **({"messages": messages} if self.is_chat else {"prompt": _plain(messages)})}


def _plain(messages: list[dict[str, object]]) -> str:
    return "\n\n".join(str(message["content"]) for message in messages)
