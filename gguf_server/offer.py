"""What requests may have of a chain of engines: which one now, and whether waiting for one makes sense.

The chain's owner tells what is happening; requests ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from backends.base import Engine
from gguf_server.errors import NotReady
from gguf_server.failover import Phase
from gguf_server.link import Link
from gguf_server.preference import Preference
from gguf_server.serving import Serving


class NoneLeft(Exception):
    """Every engine of the chain was tried for this request, or none of the others can be had."""


class Offer:
    """`is_swapping`: one engine has made room for another. `is_awaited`: nothing has come up yet, and requests wait.

    `has_successor`: another chain answers what this one cannot. `is_closed`: nothing will come up any more.
    """

    def __init__(self, service: str, links: Sequence[Link], preference: Preference, *, is_awaited: bool) -> None:
        self._service = service
        self._links = links
        self._preference = preference
        self.is_swapping = False
        self.is_awaited = is_awaited
        self.has_successor = False
        self.is_closed = False
        self._changed = asyncio.Event()

    @property
    def serving(self) -> Serving | None:
        """The engine that new requests go to: of those that are up, the one that is wanted most."""
        return next((link.offered for link in self._preference if link.offered is not None), None)

    @property
    def is_loading(self) -> bool:
        return any(link.phase is Phase.STARTING for link in self._links)

    def tell(self) -> None:
        """Have those who wait look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        self.is_closed = True
        self.is_swapping = self.is_awaited = False
        self.tell()

    async def wait_changed(self) -> None:
        await self._changed.wait()

    async def wait_unused(self) -> None:
        """Return once no request is with any of the engines."""
        while any(link.serving is not None and link.serving.uses for link in self._links):
            await self._changed.wait()

    def require(self) -> Serving | None:
        """The engine that serves; None where one is to come that `acquire` waits for.

        Raises `NotReady` while no engine can answer.
        """
        serving = self.serving
        if serving is None and not (self.is_swapping or self.is_awaited):
            why = "the model is loading" if self.is_loading else "no engine could be started"
            raise NotReady(f"{self._service}: {why}", retry_after_s=2 if self.is_loading else 10)
        return serving

    async def acquire(self, tried: Collection[Engine] = ()) -> Serving:
        """The first engine up that was not tried, once there is one. Raises `NoneLeft`. Safe to cancel."""
        since = asyncio.get_running_loop().time()
        while True:
            for link in self._preference:
                if link.offered is not None and link.engine not in tried:
                    return link.offered
            if not self._may_come(tried, since):
                raise NoneLeft
            await self._changed.wait()

    def _may_come(self, tried: Collection[Engine], since: float) -> bool:
        """Whether an engine that was not tried is on its way, or may be once a suspect one is judged.

        One that has failed to start since then is not waited for any longer, and none of a chain that has a successor.
        """
        if self.is_closed or (self.has_successor and self.serving is None):
            return False
        if self.is_awaited:
            return True
        others = [link for link in self._links if link.engine not in tried]
        if any(link.phase is Phase.STARTING for link in others):
            return True
        up = [link.offered for link in self._links if link.offered is not None]
        if up:
            return any(serving.is_suspect for serving in up)
        return any(link.may_yet_start(since) for link in others)
