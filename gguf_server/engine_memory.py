"""Memory as it is around one engine's load: what is free before it, what the engine holds after it."""

from __future__ import annotations

from typing import Any

from gguf_server import gpus, host_memory
from gguf_server.card_memory import Read
from gguf_server.planning import CardSeen, Held, Room


class EngineMemory:
    """`index` of its card, all cards where None; `read_cards` None for an engine that uses none. Both methods block."""

    def __init__(self, read_cards: Read | None, index: int | None) -> None:
        self._read_cards = read_cards
        self._index = index
        self._used_before = 0

    def room(self) -> Room:
        cards = self._cards()
        self._used_before = _used(cards)
        free = sum(card["memory_total_bytes"] for card in cards) - self._used_before
        seen = tuple(CardSeen(card["name"], card["memory_total_bytes"]) for card in cards)
        return Room(free if cards else None, host_memory.free_bytes(), seen)

    def held(self, pid: int) -> Held:
        """Of a process and those below it. Where the driver names no owners, what the cards hold more than before."""
        cards = self._cards()
        told = gpus.held_by(host_memory.pids(pid)) if cards else None
        grown = max(0, _used(cards) - self._used_before) if cards else None
        return Held(grown if told is None else told, host_memory.rss_bytes(pid))

    def _cards(self) -> list[dict[str, Any]]:
        cards = list((self._read_cards and self._read_cards()) or ())
        return cards if self._index is None else cards[self._index : self._index + 1]


def _used(cards: list[dict[str, Any]]) -> int:
    return sum(card["memory_used_bytes"] for card in cards)
