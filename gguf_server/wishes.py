"""What an operator asks of a chain of engines. Its owner grants it between two decisions: nobody else changes it.

A wish raises `Conflict` or `NotFound` where it cannot be granted, and nothing has changed then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from gguf_server.errors import Conflict, GatewayError, NotFound
from gguf_server.failover import Phase
from gguf_server.link import Link
from gguf_server.preference import Preference

Granted = TypeVar("Granted")


class Wishes:
    """A queue with one reader, which `poke` wakes. As long as it has not begun, whoever asks is served at once."""

    def __init__(self, poke: asyncio.Event) -> None:
        self._poke = poke
        self._asked: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._has_reader = False
        self._is_closed = False

    def begin(self) -> None:
        self._has_reader = True

    async def ask(self, wish: Callable[[], Granted]) -> Granted:
        """What came of it, once the owner has seen to it. Raises `GatewayError`s."""
        if self._is_closed:
            raise Conflict("these engines are being ended")
        if not self._has_reader:
            return wish()
        answer: asyncio.Future[Granted] = asyncio.get_running_loop().create_future()
        self._asked.append((wish, answer))
        self._poke.set()
        return await answer

    def grant(self) -> None:
        while self._asked:
            wish, answer = self._asked.popleft()
            if answer.done():  # whoever asked has left
                continue
            try:
                answer.set_result(wish())
            except GatewayError as error:
                answer.set_exception(error)

    def close(self) -> None:
        self._is_closed = True
        while self._asked:
            _, answer = self._asked.popleft()
            if not answer.done():
                answer.set_exception(Conflict("these engines are being ended"))


def number_of(name: str, links: Sequence[Link]) -> int:
    """The engine of that name; `0:NAME`, as metrics call it, where several have the same.

    Raises `NotFound` and `Conflict`.
    """
    full = [f"{number}:{link.engine.name}" for number, link in enumerate(links)]
    found = [number for number, link in enumerate(links) if name in (full[number], link.engine.name)]
    if not found:
        raise NotFound(f"there is no engine {name!r}; there are {', '.join(full)}", param="engine")
    if len(found) > 1:
        raise Conflict(f"several engines are called {name!r}: say one of {', '.join(full[n] for n in found)}")
    return found[0]


def restart(links: Sequence[Link], preference: Preference, number: int) -> str:
    """Have an engine ended once it has answered what it was asked, and loaded again. Returns what will happen."""
    link = links[number]
    if link.phase is Phase.STARTING:
        raise Conflict(f"{link.engine.name} is being loaded already")
    if link.phase is Phase.ENDING or link.is_held:
        return "it is being ended, and will be loaded again as soon as it is needed"
    is_needed = not any(other.offered for other in links if other is not link)
    if link.phase is Phase.DOWN and not is_needed and not link.n_failures:
        raise Conflict(f"{link.engine.name} is not loaded, and not needed; switch to it to have it answer")
    if is_needed:
        preference.begin_with(number)
    link.want()
    if link.phase is Phase.DOWN:
        return "it was not loaded, and is tried again"
    link.is_held = True
    return f"it is loaded again once it has answered {len(link.serving.uses) if link.serving else 0} requests"


def switch(links: Sequence[Link], preference: Preference, number: int | None) -> str:
    """Want this engine before all others; None: as they are configured. Returns what will happen."""
    if number is None:
        preference.pin(None)
        return "the order is that of the configuration again"
    link = links[number]
    is_new = preference.pinned != number
    preference.pin(number)
    if link.offered is not None:
        return "it answers new requests"
    if is_new or link.phase is Phase.DOWN:
        link.want()
    if link.phase is Phase.DOWN:
        return "it is loaded, and then answers new requests; what needs the same card finishes first and makes room"
    return f"it is {link.phase}, and answers new requests once it is up"
