from __future__ import annotations

import pytest

from backends.base import EngineFailure, FailureReason
from backends.vllm.memory import GIB, CardMemory, check_fits, is_small, margin_gib

GEMMA_GIB = 8.7


def card(total_gib: float, used_gib: float = 0.3) -> CardMemory:
    return CardMemory(free_bytes=int((total_gib - used_gib) * GIB), total_bytes=int(total_gib * GIB))


def test_gemma_with_bitsandbytes_fits_a_12_gb_card_just_so() -> None:
    check_fits(card(12), utilization=0.97, weights_gib=GEMMA_GIB)
    assert is_small(margin_gib(card(12), utilization=0.97, weights_gib=GEMMA_GIB))


def test_on_a_16_gb_card_there_is_room() -> None:
    check_fits(card(16), utilization=0.92, weights_gib=GEMMA_GIB)
    assert not is_small(margin_gib(card(16), utilization=0.92, weights_gib=GEMMA_GIB))


def test_what_the_driver_keeps_is_no_reason_to_refuse() -> None:
    check_fits(card(12, used_gib=0.6), utilization=0.97, weights_gib=None)


def test_a_card_in_use_is_told_with_both_numbers() -> None:
    message = r"4\.0 of 12\.0 GiB are free on the card, and gpu_memory_utilization = 0\.97 asks for 11\.6 GiB"
    with pytest.raises(EngineFailure, match=message) as caught:
        check_fits(card(12, used_gib=8), utilization=0.97, weights_gib=GEMMA_GIB)
    assert caught.value.reason is FailureReason.OUT_OF_MEMORY


def test_weights_that_cannot_fit_are_told_with_both_numbers() -> None:
    with pytest.raises(EngineFailure, match=r"take 8\.7 GiB, and vLLM's share of the card is 7\.8 GiB") as caught:
        check_fits(card(8), utilization=0.97, weights_gib=GEMMA_GIB)
    assert caught.value.reason is FailureReason.OUT_OF_MEMORY
