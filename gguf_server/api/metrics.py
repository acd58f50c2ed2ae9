"""What happened to services and their engines, for Prometheus; read when asked for, so that requests pay nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gguf_server.api.plan_metrics import plan_metrics
from gguf_server.link import Link
from gguf_server.service import Service

_TOTALS: Final = {
    "n_requests": ("requests", "Requests that were let in"),
    "n_prompt_tokens": ("prompt_tokens", "Prompt tokens of finished answers"),
    "n_completion_tokens": ("completion_tokens", "Completion tokens of finished answers"),
    "n_truncated": ("truncated_requests", "Requests whose conversation was shortened"),
    "n_failovers": ("failovers", "Moves of a request to another engine"),
}
_ENGINE: Final = ("service", "engine", "kind", "device")


class MetricsApi:
    """The handler of one listener."""

    def __init__(self, services: Sequence[Service]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_ServicesCollector(services))

    async def metrics(self, _request: web.Request) -> web.Response:
        text = generate_latest(self._registry)
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


class _ServicesCollector(Collector):
    def __init__(self, services: Sequence[Service]) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        for field, (name, help_text) in _TOTALS.items():
            counter = CounterMetricFamily(f"gguf_{name}", help_text, labels=["service"])
            for service in self._services:
                counter.add_metric([service.name], getattr(service.totals, field))
            yield counter
        yield self._gauge("requests_running", "Requests being answered", lambda s: s.admission.n_running)
        yield self._gauge("requests_waiting", "Requests in the queue", lambda s: s.admission.n_queued)
        yield from _engine_metrics([(service.name, service.chain.links) for service in self._services])

    def _gauge(self, name: str, help_text: str, value: Callable[[Service], float]) -> Metric:
        gauge = GaugeMetricFamily(f"gguf_{name}", help_text, labels=["service"])
        for service in self._services:
            gauge.add_metric([service.name], value(service))
        return gauge


def _engine_metrics(chains: Iterable[tuple[str, Sequence[Link]]]) -> Iterator[Metric]:
    up = GaugeMetricFamily("gguf_engine_up", "1 while the engine answers", labels=_ENGINE)
    serving = GaugeMetricFamily("gguf_engine_serving", "1 for the engine that new requests go to", labels=_ENGINE)
    load = GaugeMetricFamily("gguf_engine_load_seconds", "What its last start took", labels=_ENGINE)
    starts = CounterMetricFamily("gguf_engine_starts", "Starts of the engine", labels=_ENGINE)
    failures = CounterMetricFamily("gguf_engine_failures", "Failures by reason", labels=[*_ENGINE, "reason"])
    forecasts = []
    for service, links in chains:
        first_up = next((link for link in links if link.serving is not None), None)
        for number, link in enumerate(links):
            of = [service, f"{number}:{link.engine.name}", link.engine.kind, link.engine.device]
            forecasts.append((of, link.forecast, link.serving is not None))
            up.add_metric(of, link.serving is not None)
            serving.add_metric(of, link is first_up)
            starts.add_metric(of, link.n_starts)
            if link.load_s is not None:
                load.add_metric(of, link.load_s)
            for reason, n in link.failures.items():
                failures.add_metric([*of, str(reason)], n)
    return iter((up, serving, load, starts, failures, *plan_metrics(_ENGINE, forecasts)))
