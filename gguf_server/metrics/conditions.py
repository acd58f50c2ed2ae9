"""Whether usage and the audit can be written, for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.core import GaugeMetricFamily, Metric

from gguf_server.conditions import Condition


def condition_metrics(conditions: Mapping[str, Condition]) -> Metric:
    writing = GaugeMetricFamily("gguf_writing", "Whether these records of requests can be written", labels=["record"])
    for part, tell in conditions.items():
        writing.add_metric([part], tell() is None)
    return writing
