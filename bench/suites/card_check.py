"""Whether this machine has the card that a suite is for, as NVML tells."""

from __future__ import annotations

from collections.abc import Sequence

from bench.measuring.gpus import Card
from weights import cards


class WrongMachine(Exception):
    """The suite is for another machine; the message says for which, what this one has, and how to go on."""


def check_card(wanted_key: str | None, here: Sequence[Card], *, anyway: bool) -> str | None:
    """What a reader of the result must know; None where all is as it should be.

    Raises `WrongMachine`, `weights.cards.UnknownCard` for a key that the catalogue has not.
    """
    if wanted_key is None:
        return None
    wanted = cards.get(wanted_key)
    found = [cards.find(card.name, card.memory_bytes) for card in here]
    if any(card is not None and card.key == wanted.key for card in found):
        return None
    has = ", ".join(f"{card.name} ({card.memory_bytes / 2**30:.0f} GiB)" for card in here)
    wants = f"{wanted.name} ({wanted.memory_bytes / 2**30:.0f} GiB)"
    told = f"the suite is for the {wants}, and this machine has {has or 'no card that NVML can see'}"
    if not anyway:
        raise WrongMachine(f"{told}. Use --suite cpu here, or --anyway to run it all the same.")
    return f"run anyway: {told}"
