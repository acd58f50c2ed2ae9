"""The catalogue of cards: memory, bandwidth and arithmetic rate of each, from `cards.toml`, where the sources are."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any, Final

_MEMORY_TOLERANCE: Final = 0.08  # drivers keep a part of the memory for themselves, and more where ECC is on


class UnknownCard(Exception):
    """No card of the catalogue has this name; the message lists those there are."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a plan needs to know of a card, or of a processor with its memory: `compute_capability` is None there.

    Rates are dense and at the boost clock: `tensor_flops_per_s` in FP16 with sums in FP32, `int8_ops_per_s` with sums
    in INT32; both are of the tensor cores. `memory_bytes` is all that the driver tells, in use or not.
    """

    key: str
    name: str
    family: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    tensor_flops_per_s: float
    int8_ops_per_s: float
    compute_capability: tuple[int, int] | None
    nvml_names: tuple[str, ...]
    source: str

    @property
    def half_flops_per_s(self) -> float:
        """In FP16 with sums in FP16, which every family does at half its INT8 rate."""
        return self.int8_ops_per_s / 2

    @property
    def is_cpu(self) -> bool:
        return self.compute_capability is None


def find(nvml_name: str, memory_bytes: int) -> Card | None:
    """The card that NVML calls so; of several with one name, the one whose memory is nearest. None if it is unknown.

    A name must agree as a whole: a laptop's RTX 3060 is another card than the RTX 3060.
    """
    named = [card for card in CARDS.values() if _plain(nvml_name) in map(_plain, card.nvml_names)]
    nearest = min(named, key=lambda card: abs(card.memory_bytes - memory_bytes), default=None)
    if nearest is None or abs(nearest.memory_bytes - memory_bytes) > _MEMORY_TOLERANCE * nearest.memory_bytes:
        return None
    return nearest


def get(key: str) -> Card:
    """The card with this key. Raises `UnknownCard`."""
    try:
        return CARDS[key]
    except KeyError:
        raise UnknownCard(f"no card {key} is known; there are {', '.join(CARDS)}") from None


def _plain(nvml_name: str) -> str:
    return nvml_name.casefold().removeprefix("nvidia ").strip()


def _catalogue() -> Mapping[str, Card]:
    tables = tomllib.loads(resources.files(__package__).joinpath("cards.toml").read_text())
    return MappingProxyType({key: _card(key, entry, tables) for key, entry in tables["cards"].items()})


def _card(key: str, entry: Mapping[str, Any], tables: Mapping[str, Any]) -> Card:
    family, sources = tables["families"][entry["family"]], tables["sources"]
    clocks_per_s = entry["n_sms"] * entry["boost_mhz"] * 1e6
    major, minor = family["compute_capability"]
    return Card(
        key=key,
        name=f"NVIDIA {entry['nvml_names'][0]}",
        family=entry["family"],
        memory_bytes=entry["memory_mib"] << 20,
        bandwidth_bytes_per_s=entry["bandwidth_gb_per_s"] * 1e9,
        tensor_flops_per_s=clocks_per_s * family["fp16_per_clock"],
        int8_ops_per_s=clocks_per_s * family["int8_per_clock"],
        compute_capability=(major, minor),
        nvml_names=tuple(entry["nvml_names"]),
        source=f"{sources[family['source']]}; memory: {sources['memory']}",
    )


CARDS: Final[Mapping[str, Card]] = _catalogue()
