"""The card that a plan is for: one of the catalogue, or the one in this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gguf_server import gpus
from weights.cards import Card, UnknownCard, find, get

AUTO: Final = "auto"
CPU: Final = "cpu"


class NoCard(Exception):
    """There is none of that name; the message says what there is."""


@dataclass(frozen=True, slots=True)
class PlanCard:
    """`memory_bytes` are for the plan: what others hold now is not among them. `card`: None where the catalogue does
    not know it, so that nothing can be said of speed."""

    name: str
    memory_bytes: int
    used_bytes: int
    card: Card | None


def choose(key: str) -> PlanCard | None:
    """`auto` asks NVML and takes the card with the most memory; None for `cpu`, and where NVML sees no card.

    Raises `NoCard` for a key that is not in the catalogue.
    """
    if key == CPU:
        return None
    if key != AUTO:
        try:
            card = get(key)
        except UnknownCard as error:
            raise NoCard(f"{error}; {AUTO} is the card in this machine, {CPU} none") from error
        return PlanCard(card.name, card.memory_bytes, 0, card)
    seen = max(gpus.read() or [], key=lambda card: int(card["memory_total_bytes"]), default=None)
    if seen is None:
        return None
    total, used = int(seen["memory_total_bytes"]), int(seen["memory_used_bytes"])
    return PlanCard(seen["name"], total - used, used, find(seen["name"], total))
