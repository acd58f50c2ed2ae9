"""Whether a card can hold the model, said before the minutes that vLLM needs to find out.

vLLM takes a share of the card's whole memory, refuses to start where less than that is free, and puts into it the
weights, what computing needs, and the KV cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from backends.base import EngineFailure, FailureReason

GIB: Final = 1 << 30
_SMALL_MARGIN_GIB: Final = 3.0  # compute buffers, the image encoder's trial run and a first few thousand tokens
_SLACK: Final = 0.03  # of the card: NVML counts what the driver keeps for itself, CUDA and so vLLM do not


@dataclass(frozen=True, slots=True)
class CardMemory:
    """Of one card, now."""

    free_bytes: int
    total_bytes: int


ReadCard = Callable[[int | None], CardMemory | None]
"""Memory of the card with this index, or of the only one; None where that is not known."""


def margin_gib(card: CardMemory, *, utilization: float, weights_gib: float) -> float:
    """What is left of vLLM's share beside the weights, at best."""
    return utilization * card.total_bytes / GIB - weights_gib


def is_small(margin: float) -> bool:
    return margin < _SMALL_MARGIN_GIB


def check_fits(card: CardMemory, *, utilization: float, weights_gib: float | None) -> None:
    """Raises `EngineFailure` where vLLM would certainly refuse; what is near the edge is left to it."""
    total, free = card.total_bytes / GIB, card.free_bytes / GIB
    share = utilization * total
    if free < share - _SLACK * total:
        detail = (
            f"{free:.1f} of {total:.1f} GiB are free on the card, and gpu_memory_utilization = {utilization:g}"
            f" asks for {share:.1f} GiB"
        )
        raise EngineFailure(FailureReason.OUT_OF_MEMORY, detail)
    if weights_gib is not None and weights_gib >= share:
        detail = f"the weights take {weights_gib:.1f} GiB, and vLLM's share of the card is {share:.1f} GiB"
        raise EngineFailure(FailureReason.OUT_OF_MEMORY, detail)
