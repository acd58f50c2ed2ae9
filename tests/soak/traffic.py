"""Who asks what: classes of keys with their shares of the load, and requests as the dice make them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from tests.soak.program import N_WORDS

CHAT: Final = "/v1/chat/completions"
TEXT: Final = "/v1/completions"
SIMPLE: Final = "/chat"
_TOOL: Final = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
_LONG_TURN: Final = "bệnh nhân 患者 record " * 40
_LEAVES_AFTER_S: Final = 0.6


@dataclass(frozen=True, slots=True)
class Class:
    """Clients with one key. The shares are of the capacity, in the calm and in the overload."""

    name: str
    priority: str
    calm_share: float
    overload_share: float


CLASSES: Final = (
    Class("ward", "high", 0.25, 0.25),
    Class("office", "normal", 0.25, 0.5),
    Class("batch", "low", 0.0, 1.25),
)
"""The ward asks as much as ever while the others grow, from half of the capacity in the calm to twice of it."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `leaves_after_s`: when its client goes away, if the answer is not whole by then."""

    kind: str
    path: str
    body: dict[str, Any]
    leaves_after_s: float | None = None

    @property
    def is_stream(self) -> bool:
        return bool(self.body.get("stream")) or self.path == SIMPLE

    @property
    def can_move(self) -> bool:
        """Whether a begun answer can go on at another engine: not where a grammar holds it."""
        return "response_format" not in self.body


def draw(dice: random.Random) -> Ask:
    """What the next client asks."""
    kind = dice.choices(
        ("chat", "short", "whole", "text", "simple", "tools", "json", "long", "leaves"),
        (30, 15, 15, 10, 5, 5, 5, 5, 10),
    )[0]
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Count, please."}], "stream": kind != "whole"}
    path = CHAT
    if body["stream"] and dice.random() < 0.5:
        body["stream_options"] = {"include_usage": True}
    match kind:
        case "short":
            body["max_tokens"] = dice.randint(1, N_WORDS // 4)
        case "text":
            path, body["stream"] = TEXT, dice.random() < 0.7
            body["prompt"] = "Count: "
            del body["messages"]
        case "simple":
            path, body = SIMPLE, {"messages": body["messages"]}
        case "tools":
            body["tools"] = [_TOOL]
        case "json":
            body["response_format"] = {"type": "json_object"}
        case "long":
            body["messages"] = _conversation(dice.randint(20, 60))
        case _:
            pass
    if not body.get("stream"):
        body.pop("stream_options", None)
    leaves_after_s = dice.uniform(0, _LEAVES_AFTER_S) if kind == "leaves" else None
    return Ask(kind, path, body, leaves_after_s)


def _conversation(n_turns: int) -> list[dict[str, str]]:
    """At 120 tokens a turn and more, longer than the context takes: turns have to go."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": _LONG_TURN} for i in range(n_turns)]
    return [{"role": "system", "content": "Be short."}, *turns, {"role": "user", "content": "Count, please."}]


async def arrive(
    rate_per_s: float, until: float, dice: random.Random, launch: Callable[[], Coroutine[Any, Any, None]]
) -> list[float]:
    """Poisson arrivals until the loop's clock says `until`, whatever became of those before; then wait for the last.

    How late each was, seconds: where the machine is too busy to send on time.
    """
    clock, lags = asyncio.get_running_loop().time, []
    async with asyncio.TaskGroup() as clients:
        at = clock()
        while rate_per_s > 0 and (at := at + dice.expovariate(rate_per_s)) < until:
            await asyncio.sleep(max(0.0, at - clock()))
            lags.append(clock() - at)
            clients.create_task(launch())
    return lags
