"""All that `/metrics` tells, gathered when it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import generate_latest
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from gguf_server.conditions import Condition
from gguf_server.limits.limiter import Limiter
from gguf_server.metrics import machine
from gguf_server.metrics.conditions import condition_metrics
from gguf_server.metrics.engines import EngineMetrics
from gguf_server.metrics.limits import limit_metrics
from gguf_server.metrics.requests import RequestMetrics
from gguf_server.metrics.services import service_metrics
from gguf_server.service import Service
from gguf_server.settings.observing import MetricsSettings


class Exposition:
    """One for the gateway. `requests` is told of every request; `conditions` are those of the gateway's parts."""

    def __init__(self, settings: MetricsSettings, conditions: Mapping[str, Condition], limiter: Limiter) -> None:
        self.requests = RequestMetrics()
        self._conditions = conditions
        self._engines = EngineMetrics(settings.engine_timeout_s) if settings.engines else None
        self._limiter = limiter
        self._one_at_a_time = asyncio.Lock()

    async def text(self, services: Collection[Service], *, with_others: bool) -> bytes:
        """In Prometheus' text format. `with_others`: also requests that were for no service."""
        async with self._one_at_a_time:
            reading, engines = await asyncio.gather(
                asyncio.to_thread(machine.read, machine.pids_of(services)), self._of_engines(services)
            )
            metrics = [
                _build(),
                *self.requests.collect(services, with_others=with_others),
                *service_metrics(services),
                condition_metrics(self._conditions),
                *limit_metrics(self._limiter),
                *machine.machine_metrics(services, reading),
                *([self._engines.misses(services)] if self._engines is not None else ()),
                *engines,
            ]
            return await asyncio.to_thread(generate_latest, _Gathered(metrics))

    async def _of_engines(self, services: Collection[Service]) -> list[Metric]:
        return [] if self._engines is None else await self._engines.fetch(services)


@dataclass(frozen=True, slots=True)
class _Gathered(Collector):
    metrics: Collection[Metric]

    def collect(self) -> Iterator[Metric]:
        return iter(self.metrics)


@cache
def _build() -> Metric:
    try:
        found = version("gguf-server")
    except PackageNotFoundError:
        found = "unknown"
    return InfoMetricFamily("gguf_build", "What runs here", value={"version": found})
