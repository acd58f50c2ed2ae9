from __future__ import annotations

import pytest

from weights import cards
from weights.cards import CARDS, UnknownCard, find

GIB = 1 << 30


@pytest.mark.parametrize(
    ("key", "fp16_tflops", "int8_tops"),
    [  # as the makers print them: dense, FP16 with sums in FP32
        ("rtx-5090", 209.5, 838),
        ("rtx-4090", 165.2, 660.6),
        ("rtx-4080", 97.5, 389.9),
        ("rtx-3090", 71, 284.7),
        ("rtx-3080-10gb", 59.5, 238),
        ("a100-sxm-80gb", 312, 624),
        ("h100-sxm", 989.4, 1978.9),
        ("h100-pcie", 756, 1513),
        ("l4", 121, 242),
        ("t4", 65, 130),
        ("rtx-a6000", 154.8, 309.7),
        ("rtx-2080-ti", 53.8, 215.2),
    ],
)
def test_the_rate_of_multiprocessors_and_clock_is_the_one_that_is_printed(
    key: str, fp16_tflops: float, int8_tops: float
) -> None:
    assert CARDS[key].tensor_flops_per_s / 1e12 == pytest.approx(fp16_tflops, rel=0.01)
    assert CARDS[key].int8_ops_per_s / 1e12 == pytest.approx(int8_tops, rel=0.01)


@pytest.mark.parametrize(
    ("name", "gib", "key"),
    [
        ("NVIDIA GeForce RTX 5060 Ti", 15.93, "rtx-5060-ti-16gb"),
        ("NVIDIA GeForce RTX 5060 Ti", 7.96, "rtx-5060-ti-8gb"),
        ("NVIDIA GeForce RTX 3060", 12.0, "rtx-3060-12gb"),
        ("GeForce RTX 3060", 11.77, "rtx-3060-12gb"),  # drivers before 510 leave the maker out
        ("NVIDIA GeForce RTX 3080", 10.0, "rtx-3080-10gb"),
        ("NVIDIA GeForce RTX 3080", 12.0, "rtx-3080-12gb"),
        ("NVIDIA H100 80GB HBM3", 79.65, "h100-sxm"),
        ("Tesla T4", 14.75, "t4"),
    ],
)
def test_a_card_is_found_by_its_name_and_memory(name: str, gib: float, key: str) -> None:
    found = find(name, int(gib * GIB))
    assert found is not None
    assert found.key == key


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("NVIDIA GeForce RTX 3060 Laptop GPU", 6),
        ("NVIDIA GeForce RTX 3060", 8),  # a later card with a narrower bus
        ("NVIDIA GeForce RTX 4090 D", 24),
        ("", 12),
    ],
)
def test_a_card_that_is_only_like_a_known_one_is_unknown(name: str, gib: int) -> None:
    assert find(name, gib * GIB) is None


def test_no_two_cards_of_one_name_are_of_one_size() -> None:
    told = [(name, round(card.memory_bytes / GIB)) for card in CARDS.values() for name in card.nvml_names]
    assert len(told) == len(set(told))


def test_an_unknown_key_is_told_the_known_ones() -> None:
    with pytest.raises(UnknownCard, match=r"rtx-5060-ti-16gb.*rtx-3060-12gb"):
        cards.get("voodoo-2")
