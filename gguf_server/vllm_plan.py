"""Plans for engines that are vLLM, from their settings and what is known of the model's files."""

from __future__ import annotations

from typing import Final

from backends.vllm.spec import VllmSpec
from gguf_server.planning import EnginePlan, Room

_NO_CARD: Final = "vLLM needs a card, and none is seen"


def plan_vllm(spec: VllmSpec, room: Room) -> EnginePlan:
    """Of one start of vLLM."""
    if not room.cards:
        return EnginePlan(gaps=(_NO_CARD,))
    return EnginePlan(gaps=(spec.model,))
