"""What the limits of keys have refused, and whether gateways that share them do share them now."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gguf_server.limits.limiter import Limiter


def limit_metrics(limiter: Limiter) -> Iterator[Metric]:
    refused = CounterMetricFamily(
        "gguf_rate_limited_requests", "Requests that were over a limit of their key", labels=["limit"]
    )
    for kind, n in limiter.n_refused.items():
        refused.add_metric([kind], n)
    yield refused
    yield GaugeMetricFamily(
        "gguf_limits_store_reachable",
        "1 while limits are counted where they should be; 0 while each gateway counts by itself",
        value=limiter.is_store_reachable,
    )
