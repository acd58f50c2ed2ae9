"""Fitting a conversation into a context: which messages go, what max_tokens becomes.

Nothing is counted here: the caller brings a function that counts as the engine itself would, with its tokeniser and
its chat template.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from backends.openai_schema import ChatCompletionRequest, Message
from gguf_server.errors import ContextExceeded

Count = Callable[[Sequence[Message]], Awaitable[int | None]]
"""Prompt tokens of these messages, or None where the chat template refuses them in this order."""

_TEMPLATE_TOKENS: Final = 512
_TEMPLATE_TOKENS_PER_MESSAGE: Final = 64
_TOKENS_PER_IMAGE: Final = 2048


@dataclass(frozen=True, slots=True)
class Fit:
    """What is sent to the engine. `n_dropped` counts messages."""

    messages: tuple[Message, ...]
    max_tokens: int
    n_dropped: int


def upper_bound(request: ChatCompletionRequest) -> int:
    """No fewer tokens than the prompt can have: a token stands for at least one byte.

    The template's own words are allowed for generously; should one be longer still, the engine's own limit holds.
    """
    n_bytes = len(orjson.dumps(request.tools)) if request.tools else 0
    n_images = 0
    for message in request.messages:
        if isinstance(message.content, str):
            n_bytes += len(message.content.encode())
        else:
            n_images += message.n_images
            parts = message.content or []
            n_bytes += sum(len(str(part.get("text") or "").encode()) for part in parts)
        if message.model_extra:
            n_bytes += len(orjson.dumps(message.model_extra))
    per_message = _TEMPLATE_TOKENS_PER_MESSAGE * len(request.messages)
    return _TEMPLATE_TOKENS + per_message + n_bytes + n_images * _TOKENS_PER_IMAGE


async def fit(
    messages: Sequence[Message], max_tokens: int, max_model_len: int, count: Count, *, keep_last: bool
) -> Fit:
    """Drop as few of the oldest messages in the middle as it takes; then shrink `max_tokens`.

    System messages and the last user message always stay, and the very last message with `keep_last`. Raises
    `ContextExceeded` when those alone leave no room for an answer.
    """
    groups = droppable_groups(messages, keep_last=keep_last)

    async def count_from(n_groups: int) -> tuple[int, int] | None:
        """Groups gone and tokens left, of the first shape with at least `n_groups` gone that the template takes."""
        for n_gone in range(n_groups, len(groups) + 1):
            n_tokens = await count(_without(messages, groups[:n_gone]))
            if n_tokens is not None:
                return n_gone, n_tokens
        return None

    chosen = await _fewest_gone(count_from, len(groups), max_model_len - max_tokens)
    if chosen is None:
        return Fit(tuple(messages), max_tokens, 0)  # refused in any shape: the engine will say why
    n_gone, n_prompt = chosen
    kept = _without(messages, groups[:n_gone])
    n_left = max_model_len - n_prompt
    if n_left < 1:
        raise ContextExceeded(
            f"this model's maximum context length is {max_model_len} tokens; the system messages and the last user "
            f"message alone have {n_prompt}",
            param="messages",
        )
    return Fit(kept, min(max_tokens, n_left), len(messages) - len(kept))


async def _fewest_gone(
    count_from: Callable[[int], Awaitable[tuple[int, int] | None]], n_groups: int, n_room: int
) -> tuple[int, int] | None:
    """By bisection: (groups gone, tokens) of the longest shape within `n_room`, else of the shortest there is."""
    low, high = 0, n_groups + 1
    fits: tuple[int, int] | None = None
    too_long: tuple[int, int] | None = None
    while low < high:
        middle = (low + high) // 2
        found = await count_from(middle)
        if found is None:
            high = middle
        elif found[1] <= n_room:
            fits, high = found, middle
        else:
            too_long, low = found, found[0] + 1
    return fits or too_long


def droppable_groups(messages: Sequence[Message], *, keep_last: bool) -> list[range]:
    """Runs of messages that can only go together, oldest first: a tool call goes with its results."""
    last_user = max((i for i, message in enumerate(messages) if message.role == "user"), default=-1)
    stays = {i for i, message in enumerate(messages) if message.role == "system"} | {last_user}
    if keep_last or last_user < 0:
        stays.add(len(messages) - 1)
    groups = []
    i = 0
    while i < len(messages):
        end = i + 1
        if (messages[i].model_extra or {}).get("tool_calls"):
            while end < len(messages) and messages[end].role in ("tool", "function"):
                end += 1
        if not stays.intersection(range(i, end)):
            groups.append(range(i, end))
        i = end
    return groups


def _without(messages: Sequence[Message], dropped: Sequence[range]) -> tuple[Message, ...]:
    gone = {i for group in dropped for i in group}
    return tuple(message for i, message in enumerate(messages) if i not in gone)
