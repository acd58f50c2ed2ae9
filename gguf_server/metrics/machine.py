"""What cards, engines and this process hold of memory now. Reading it blocks for some milliseconds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import prometheus_client
from prometheus_client.core import GaugeMetricFamily, Metric

from gguf_server import gpus, host_memory
from gguf_server.metrics.services import ENGINE_LABELS, engine_values
from gguf_server.planning import Held
from gguf_server.service import Service

_PROCESS: Final = prometheus_client.ProcessCollector(registry=None)
_GPU: Final = ("gpu", "name")


@dataclass(frozen=True, slots=True)
class Reading:
    """`cards` as `gpus.read` gives them; `engines` by their process."""

    cards: Sequence[Mapping[str, Any]] = ()
    engines: Mapping[int, Held] = field(default_factory=dict)
    process: Sequence[Metric] = ()


def pids_of(services: Collection[Service]) -> frozenset[int]:
    pids = (link.engine.pid for service in services for link in service.chain.links)
    return frozenset(pid for pid in pids if pid is not None)


def read(pids: Collection[int]) -> Reading:
    cards = gpus.read() or ()
    return Reading(
        cards,
        {pid: Held(gpus.held_by(host_memory.pids(pid)) if cards else None, host_memory.rss_bytes(pid)) for pid in pids},
        list(_PROCESS.collect()),
    )


def machine_metrics(services: Collection[Service], reading: Reading) -> Iterator[Metric]:
    """What is not known is left out."""
    used = GaugeMetricFamily("gguf_gpu_memory_used_bytes", "Memory of the card in use, by whomever", labels=_GPU)
    total = GaugeMetricFamily("gguf_gpu_memory_total_bytes", "Memory of the card", labels=_GPU)
    for index, card in enumerate(reading.cards):
        used.add_metric([str(index), card["name"]], card["memory_used_bytes"])
        total.add_metric([str(index), card["name"]], card["memory_total_bytes"])
    resident = GaugeMetricFamily(
        "gguf_engine_resident_memory_bytes", "Memory of the engine's processes now", labels=ENGINE_LABELS
    )
    on_cards = GaugeMetricFamily(
        "gguf_engine_gpu_memory_bytes", "Memory of cards that the engine's processes hold now", labels=ENGINE_LABELS
    )
    for service in services:
        for of, link in engine_values(service):
            held = reading.engines.get(link.engine.pid or 0)
            if held is None:
                continue
            if held.host_bytes is not None:
                resident.add_metric(of, held.host_bytes)
            if held.gpu_bytes is not None:
                on_cards.add_metric(of, held.gpu_bytes)
    yield from (used, total, resident, on_cards)
    yield from reading.process
