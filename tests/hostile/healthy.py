"""Clients that do nothing wrong. Every one of them must be answered rightly, whatever the others do."""

from __future__ import annotations

import json
import random
from typing import Any

from tests.hostile.case import CHAT, COMPLETIONS, SIMPLE, Answer, Case, post_json, request

OK = frozenset((200,))


def text_of(answer: Answer) -> str:
    """What was said; raises where the answer has not its shape."""
    if not answer.is_stream:
        body = json.loads(answer.body)
        if "response" in body:
            return str(body["response"])
        choice = body["choices"][0]
        return str(choice["message"]["content"] if "message" in choice else choice["text"])
    *events, done, rest = answer.body.decode().split("\n\n")
    if done != "data: [DONE]" or rest:
        raise ValueError("the stream has not its end")
    said = (json.loads(event.removeprefix("data: ")) for event in events if not event.startswith(":"))
    choices = (choice for event in said for choice in event["choices"])
    return "".join((choice.get("delta") or {}).get("content") or choice.get("text") or "" for choice in choices)


class Healthy:
    """Generators whose answers are known: `chat` and `completion` are what the engine always says to `ask`."""

    def __init__(self, ask: dict[str, Any], chat: str, completion: str, *, is_gateway: bool) -> None:
        self._ask = ask
        self._said = {CHAT: chat, SIMPLE: chat, COMPLETIONS: completion}
        self._paths = (CHAT, SIMPLE, COMPLETIONS) if is_gateway else (CHAT, COMPLETIONS)

    def generate(self, dice: random.Random) -> Case:
        return self._look(dice) if dice.random() < 0.15 else self._talk(dice)

    def _talk(self, dice: random.Random) -> Case:
        path = dice.choice(self._paths)
        body: dict[str, Any] = {**self._ask, "stream": dice.random() < 0.5}
        content = f"Count to ten, please. {'Thank you. ' * dice.randint(0, 3)}"
        if path == CHAT:
            body["messages"] = [{"role": "user", "content": content}]
        else:
            body["message" if path == SIMPLE else "prompt"] = content
        wanted = self._said[path]

        def check(answer: Answer) -> str | None:
            try:
                said = text_of(answer)
            except (ValueError, KeyError, IndexError, TypeError) as error:
                return f"not the answer's shape: {type(error).__name__}"
            return None if not wanted or said == wanted else "not the answer that belongs to the request"

        return Case("healthy", (post_json(path, body),), OK, check=check)

    def _look(self, dice: random.Random) -> Case:
        return Case("healthy", (request("GET", dice.choice(("/health", "/v1/models"))),), OK)
