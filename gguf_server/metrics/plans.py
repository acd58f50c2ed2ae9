"""Plans and what came of them, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric

from gguf_server.forecast import Forecast

_MEMORY: Final = ("memory_bytes", "Memory of the engine")
_SPEED: Final = ("decode_tokens_per_second", "Tokens per second of one stream alone")


def plan_metrics(labels: Sequence[str], forecasts: Iterable[tuple[Sequence[str], Forecast, bool]]) -> list[Metric]:
    """Each forecast comes with the values of `labels`, and whether its engine is up: only then there is something to
    measure. What is not known is left out.
    """
    planned_memory, memory = _pair(*_MEMORY, [*labels, "where"])
    planned_speed, speed = _pair(*_SPEED, labels)
    amiss = GaugeMetricFamily(
        "gguf_engine_not_as_planned", "1 while it is slower than half of its plan, or off its card", labels=labels
    )
    for of, forecast, is_up in forecasts:
        need, held, typical = forecast.plan.memory, forecast.held, forecast.speed.typical()
        if need is not None:
            planned_memory.add_metric([*of, "gpu"], need.gpu_taken_bytes)
            planned_memory.add_metric([*of, "host"], need.host_bytes)
        if (expected := forecast.expected_tokens_per_s) is not None:
            planned_speed.add_metric(of, expected)
        amiss.add_metric(of, is_up and (forecast.is_slow or forecast.is_off_the_card))
        if not is_up:
            continue
        for where, n_bytes in (("gpu", held.gpu_bytes), ("host", held.host_bytes)):
            if n_bytes is not None:
                memory.add_metric([*of, where], n_bytes)
        if typical is not None:
            speed.add_metric(of, typical.tokens_per_s)
    return [planned_memory, memory, planned_speed, speed, amiss]


def _pair(name: str, help_text: str, labels: Sequence[str]) -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    planned = GaugeMetricFamily(f"gguf_engine_planned_{name}", f"{help_text}, as planned", labels=labels)
    return planned, GaugeMetricFamily(f"gguf_engine_{name}", f"{help_text}, as measured", labels=labels)
