"""How requests ended and how long they took, counted at the end of each.

Labels are names of the configuration and words of ours: nothing that a client sends becomes one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import Metric

from gguf_server.errors import GatewayError
from gguf_server.outcomes import Outcome, is_asking, outcome_of
from gguf_server.request_record import CLIENT_LEFT_STATUS, RequestRecord
from gguf_server.service import Service

_OF_ENGINE: Final = ("service", "engine")
_OTHER: Final = "other"
_TTFT_S: Final = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
_GAP_S: Final = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_DURATION_S: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200)
_QUEUE_S: Final = (0.001, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

_GIVEN_CODES: Final = {
    "bad_body": "400",
    "configuration_refused": "409",
    "grammar_not_followed": "400",
    "images_not_supported": "400",
    "invalid_json": "400",
    "key_expired": "401",
    "malformed_request": "400",
    "remote_image_refused": "400",
    "service_not_allowed": "403",
    "wrong_role": "403",
}
"""Those that an error is given where it is raised, in place of its kind's."""


class RequestMetrics:
    """`observe` is told of every request; `collect` gives what is known of some services."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._ended = Counter(
            "gguf_requests", "Requests by how they ended", (*_OF_ENGINE, "outcome"), registry=registry
        )
        self._errors = Counter(
            "gguf_request_errors", "Errors that clients were told", ("service", "status", "code"), registry=registry
        )
        self._duration = Histogram(
            "gguf_request_duration_seconds",
            "From a request's arrival to the end of its answer, of those answered",
            _OF_ENGINE,
            buckets=_DURATION_S,
            registry=registry,
        )
        self._ttft = Histogram(
            "gguf_time_to_first_token_seconds",
            "From a request's arrival to the first piece of its stream",
            _OF_ENGINE,
            buckets=_TTFT_S,
            registry=registry,
        )
        self._gap = Histogram(
            "gguf_inter_token_seconds",
            "Mean time from one token to the next within a stream",
            _OF_ENGINE,
            buckets=_GAP_S,
            registry=registry,
        )
        self._queue = Histogram(
            "gguf_queue_wait_seconds",
            "From a request's arrival to its turn",
            ("service",),
            buckets=_QUEUE_S,
            registry=registry,
        )

    def observe(self, record: RequestRecord) -> None:
        if record.error is not None and record.status != CLIENT_LEFT_STATUS:
            status, code = _status_and_code(record)
            self._errors.labels(record.service or "", status, code).inc()
        if not is_asking(record):
            return
        service, engine = record.service or "", record.engine or ""
        outcome = outcome_of(record)
        self._ended.labels(service, engine, outcome).inc()
        if record.queued_s is not None:
            self._queue.labels(service).observe(record.queued_s)
        if record.ttft_s is not None:
            self._ttft.labels(service, engine).observe(record.ttft_s)
        if record.gap_s is not None:
            self._gap.labels(service, engine).observe(record.gap_s)
        if outcome is Outcome.ANSWERED:
            self._duration.labels(service, engine).observe(record.elapsed_s)

    def collect(self, services: Collection[Service], *, with_others: bool) -> Iterator[Metric]:
        """`with_others`: also requests that were for no service, as for a path that there is not."""
        for service in services:
            self._show_zeros(service)
        shown = {service.name for service in services} | ({""} if with_others else set())
        for metric in self._registry.collect():
            metric.samples = [
                sample
                for sample in metric.samples
                if sample.labels["service"] in shown and not sample.name.endswith("_created")
            ]
            yield metric

    def _show_zeros(self, service: Service) -> None:
        """A series that begins with its first event hides that event from `rate` and `increase`."""
        for link in service.chain.links:
            for outcome in Outcome:
                self._ended.labels(service.name, link.engine.name, outcome)
            for histogram in (self._duration, self._ttft, self._gap):
                histogram.labels(service.name, link.engine.name)
        self._queue.labels(service.name)
        for code, status in _known_codes().items():
            self._errors.labels(service.name, status, code)


def _status_and_code(record: RequestRecord) -> tuple[str, str]:
    """Of the error, which a stream that had begun tells under its status of 200. An engine's own words are not kept."""
    code = record.error or ""
    status = _known_codes().get(code)
    return (str(record.status), _OTHER) if status is None else (status, code)


@cache
def _known_codes() -> dict[str, str]:
    """The status of each code of our own errors."""
    kinds = [GatewayError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return _GIVEN_CODES | {kind.code: str(kind.status) for kind in kinds}
