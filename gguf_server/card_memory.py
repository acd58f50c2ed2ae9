"""Whether the memory of a card is back after an engine's end, so that the next one does not fail for want of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

_LIMIT_S: Final = 30.0
_POLL_S: Final = 0.25
_TOLERANCE: Final = 0.03  # of the card: what a desktop or another service may have taken meanwhile

Read = Callable[[], Sequence[dict[str, Any]] | None]
"""As `gguf_server.gpus.read`. It may block."""

log = structlog.get_logger("cards")


class CardMemory:
    """One engine's card, or all cards where `index` is None: `note` before its start, `returned` after its end."""

    def __init__(self, read: Read, index: int | None, *, limit_s: float = _LIMIT_S, poll_s: float = _POLL_S) -> None:
        self._read = read
        self._index = index
        self._limit_s = limit_s
        self._poll_s = poll_s
        self._used_before: int | None = None

    async def note(self) -> None:
        self._used_before = (await self._reading())[0]

    async def returned(self) -> None:
        """Wait until no more is used than before, as nearly as one can tell; for at most `limit_s`."""
        before = self._used_before
        if before is None:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limit_s
        while True:
            used, total = await self._reading()
            if used <= before + _TOLERANCE * total:
                return
            if loop.time() >= deadline:
                log.warning("card memory is not back", card=self._index, used_before=before, used=used, total=total)
                return
            await asyncio.sleep(self._poll_s)

    async def _reading(self) -> tuple[int, int]:
        """Used and total, bytes."""
        cards = await asyncio.to_thread(self._read) or []
        if self._index is not None:
            cards = cards[self._index : self._index + 1]
        return sum(card["memory_used_bytes"] for card in cards), sum(card["memory_total_bytes"] for card in cards)
