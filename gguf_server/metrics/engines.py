"""The engines' own metrics, fetched while somebody waits for ours: all at once, and never for long."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from weakref import WeakSet

from prometheus_client.core import CounterMetricFamily, Metric

from backends.base import Dialect
from gguf_server.engine_client import EngineClient, EngineError
from gguf_server.metrics.relabelling import Families, Nonsense
from gguf_server.metrics.services import ENGINE_LABELS, engine_values
from gguf_server.service import Service

_OK: Final = 200
_HAS_NONE: Final = (404, 501)


class Miss(StrEnum):
    """Why an engine's metrics were left out."""

    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    STATUS = "status"
    NONSENSE = "nonsense"


@dataclass(frozen=True, slots=True)
class _Asked:
    labels: tuple[str, ...]
    client: EngineClient


@dataclass(frozen=True, slots=True)
class _Told:
    labels: tuple[str, ...]
    text: str


class EngineMetrics:
    """Holds what could not be fetched so far. An engine that says it has no metrics is not asked again."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._without: WeakSet[EngineClient] = WeakSet()
        self._misses: Counter[tuple[str, ...]] = Counter()

    async def fetch(self, services: Collection[Service]) -> list[Metric]:
        """Every engine's families, merged. An engine that cannot tell them costs a count."""
        asked = [of for of in _engines_up(services) if of.client not in self._without]
        told = await asyncio.gather(*(self._ask(of) for of in asked))
        texts = [text for text in told if text is not None]
        families, misses = await asyncio.to_thread(_merged, texts)
        for labels in misses:
            self._misses[(*labels, Miss.NONSENSE)] += 1
        return families

    def misses(self, services: Collection[Service]) -> Metric:
        counter = CounterMetricFamily(
            "gguf_engine_scrape_misses",
            "Times an engine's own metrics were left out, by reason",
            labels=[*ENGINE_LABELS, "reason"],
        )
        names = {service.name for service in services}
        for labels, n in self._misses.items():
            if labels[0] in names:
                counter.add_metric(labels, n)
        return counter

    async def _ask(self, of: _Asked) -> _Told | None:
        try:
            status, text = await of.client.metrics(timeout_s=self._timeout_s)
        except TimeoutError:
            self._misses[(*of.labels, Miss.TIMEOUT)] += 1
        except (EngineError, RuntimeError):  # aiohttp raises the latter for an engine that was ended just now
            self._misses[(*of.labels, Miss.UNREACHABLE)] += 1
        else:
            if status == _OK:
                return _Told(of.labels, text)
            self._misses[(*of.labels, Miss.STATUS)] += 1
            if status in _HAS_NONE:
                self._without.add(of.client)
        return None


def _engines_up(services: Collection[Service]) -> Iterator[_Asked]:
    """Those that are known to have metrics: nobody says that a server of OpenAI's API alone has any."""
    for service in services:
        for labels, link in engine_values(service):
            if link.serving is not None and link.serving.client.endpoint.dialect is not Dialect.OPENAI:
                yield _Asked(tuple(labels), link.serving.client)


def _merged(told: Collection[_Told]) -> tuple[list[Metric], list[tuple[str, ...]]]:
    """The families, and the labels of those whose text nobody can read."""
    families, misses = Families(), []
    for of in told:
        labels: Mapping[str, str] = dict(zip(ENGINE_LABELS, of.labels, strict=True))
        try:
            families.add(of.text, labels)
        except Nonsense:
            misses.append(of.labels)
    return list(families.collect()), misses
