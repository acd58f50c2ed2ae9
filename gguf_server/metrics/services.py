"""What services and their engines are and have done, read when asked for, so that requests pay nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from backends.base import EngineState
from gguf_server.link import Link
from gguf_server.metrics.plans import plan_metrics
from gguf_server.service import Service

ENGINE_LABELS: Final = ("service", "engine", "kind", "device")
_TOTALS: Final = {
    "n_requests": ("requests_admitted", "Requests that were let in"),
    "n_prompt_tokens": ("prompt_tokens", "Prompt tokens of finished answers"),
    "n_completion_tokens": ("completion_tokens", "Completion tokens of finished answers"),
    "n_truncated": ("truncated_requests", "Requests whose conversation was shortened"),
    "n_failovers": ("failovers", "Moves of a request to another engine"),
}
_GAUGES: Final[dict[str, tuple[str, Callable[[Service], float]]]] = {
    "requests_in_flight": ("Requests being answered or waiting", lambda of: of.n_in_flight),
    "requests_running": ("Requests being answered", lambda of: of.admission.n_running),
    "requests_running_limit": ("Requests that are answered at once at most", lambda of: of.settings.max_concurrent),
    "requests_waiting": ("Requests in the queue", lambda of: of.admission.n_queued),
    "requests_waiting_limit": ("Requests that may wait", lambda of: of.settings.max_queue),
    "service_ready": ("1 while some engine can answer", lambda of: of.chain.serving is not None),
    "service_draining": ("1 while it ends", lambda of: of.draining),
}


def service_metrics(services: Collection[Service]) -> Iterator[Metric]:
    for field, (name, help_text) in _TOTALS.items():
        counter = CounterMetricFamily(f"gguf_{name}", help_text, labels=["service"])
        for service in services:
            counter.add_metric([service.name], getattr(service.totals, field))
        yield counter
    for name, (help_text, value) in _GAUGES.items():
        gauge = GaugeMetricFamily(f"gguf_{name}", help_text, labels=["service"])
        for service in services:
            gauge.add_metric([service.name], value(service))
        yield gauge
    yield _moves(services)
    yield from _engine_metrics(services)


def engine_label(number: int, link: Link) -> str:
    """Its place in the chain and its name, which others of the chain may share."""
    return f"{number}:{link.engine.name}"


def engine_values(service: Service) -> Iterator[tuple[list[str], Link]]:
    """Each engine with the values of `ENGINE_LABELS`."""
    for number, link in enumerate(service.chain.links):
        engine = link.engine
        yield [service.name, engine_label(number, link), engine.kind, engine.device], link


def _moves(services: Collection[Service]) -> Metric:
    moves = CounterMetricFamily(
        "gguf_engine_moves",
        "Moves from one engine to another, of requests and of the service as a whole; to nobody where `to` is empty",
        labels=["service", "scope", "from", "to", "reason"],
    )
    for service in services:
        labels = [engine_label(number, link) for number, link in enumerate(service.chain.links)]
        for (scope, source, target, reason), n in service.chain.moves.totals.items():
            to = "" if target is None else labels[target]
            moves.add_metric([service.name, scope, labels[source], to, reason], n)
    return moves


def _engine_metrics(services: Collection[Service]) -> Iterator[Metric]:
    up = GaugeMetricFamily("gguf_engine_up", "1 while the engine answers", labels=ENGINE_LABELS)
    serving = GaugeMetricFamily("gguf_engine_serving", "1 for the engine that new requests go to", labels=ENGINE_LABELS)
    state = GaugeMetricFamily("gguf_engine_state", "1 for the state it is in", labels=[*ENGINE_LABELS, "state"])
    load = GaugeMetricFamily("gguf_engine_load_seconds", "What its last start took", labels=ENGINE_LABELS)
    starts = CounterMetricFamily("gguf_engine_starts", "Starts of the engine", labels=ENGINE_LABELS)
    failures = CounterMetricFamily("gguf_engine_failures", "Failures by reason", labels=[*ENGINE_LABELS, "reason"])
    forecasts = []
    for service in services:
        for of, link in engine_values(service):
            forecasts.append((of, link.forecast, link.serving is not None))
            up.add_metric(of, link.serving is not None)
            serving.add_metric(of, link.serving is not None and link.serving is service.chain.serving)
            starts.add_metric(of, link.n_starts)
            if link.load_s is not None:
                load.add_metric(of, link.load_s)
            for one in EngineState:
                state.add_metric([*of, one], link.state is one)
            for reason, n in link.failures.items():
                failures.add_metric([*of, str(reason)], n)
    return iter((up, serving, state, load, starts, failures, *plan_metrics(ENGINE_LABELS, forecasts)))
