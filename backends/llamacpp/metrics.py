"""The worker's counters for Prometheus, read when asked for, so that the step pays nothing for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backends.llamacpp.engine import LlamaEngine
from backends.llamacpp.vision import VisionStats

_COUNTERS: Final = {
    "n_prompt_tokens": ("prompt_tokens", "Prompt tokens computed"),
    "n_reused_tokens": ("prompt_tokens_reused", "Prompt tokens found in the cache"),
    "n_generated_tokens": ("generation_tokens", "Tokens generated"),
    "n_drafted_tokens": ("draft_tokens", "Guessed tokens computed"),
    "n_accepted_tokens": ("draft_tokens_accepted", "Guessed tokens that came true"),
    "n_steps": ("steps", "Batches computed"),
    "step_s": ("step_seconds", "Time with work to do"),
    "decode_s": ("decode_seconds", "Time inside llama_decode"),
    "n_preempted": ("preemptions", "Sequences computed anew because their cells were needed"),
    "n_forks": ("prefix_forks", "Beginnings given from one sequence to another"),
    "n_spills": ("prefix_spills", "Idle sequences saved in RAM when they had to leave the cache"),
    "n_restores": ("prefix_restores", "Sequences put back from RAM"),
    "n_cache_checks": ("cache_checks", "Times the cache was compared with what llama.cpp holds"),
    "n_failed_steps": ("failed_steps", "Batches that llama.cpp did not compute"),
}
_IMAGE_COUNTERS: Final = {
    "n_encoded": ("images_encoded", "Images the encoder was run for"),
    "n_remembered": ("images_reused", "Images whose embeddings were still there"),
    "encode_s": ("image_encode_seconds", "Time inside the image encoder"),
}
_GAUGES: Final = {
    "n_running": ("requests_running", "Sequences in the batch"),
    "n_waiting": ("requests_waiting", "Sequences waiting for a slot"),
    "n_cells_used": ("kv_cells_used", "KV cache cells that hold something"),
    "n_spilled_bytes": ("prefix_ram_bytes", "Sequences saved in RAM"),
}


class _EngineCollector(Collector):
    def __init__(self, engine: LlamaEngine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats
        for field, (name, help_text) in _COUNTERS.items():
            yield CounterMetricFamily(f"gguf_worker_{name}", help_text, value=getattr(stats, field))
        vision = self._engine.vision.stats if self._engine.vision is not None else VisionStats()
        for field, (name, help_text) in _IMAGE_COUNTERS.items():
            yield CounterMetricFamily(f"gguf_worker_{name}", help_text, value=getattr(vision, field))
        for field, (name, help_text) in _GAUGES.items():
            yield GaugeMetricFamily(f"gguf_worker_{name}", help_text, value=getattr(stats, field))
        n_encoding = self._engine.vision.n_encoding if self._engine.vision is not None else 0
        yield GaugeMetricFamily("gguf_worker_images_encoding", "Images in the encoder or waiting for it", n_encoding)


def make_registry(engine: LlamaEngine) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_EngineCollector(engine))
    return registry


def exposition(registry: CollectorRegistry) -> bytes:
    return generate_latest(registry)
