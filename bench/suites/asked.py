"""The workloads that a suite may name, with what it may say of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from bench.records.record import WorkloadRecord
from bench.suites.suite import SuiteError, WorkloadSpec
from bench.workloads import scenarios
from bench.workloads.lengths import Density
from bench.workloads.scenario import Scenario

Maker = Callable[..., Scenario]

KINDS: Final[Mapping[str, Maker]] = {
    "short chat": scenarios.short_chat,
    "words": scenarios.words,
    "long record": scenarios.long_record,
    "shared system prompt": scenarios.shared_system,
    "conversation": scenarios.conversation,
    "thinking": scenarios.thinking,
    "images": scenarios.pictures,
    "structured output": scenarios.structured,
}
_MEASURED: Final = frozenset({"long record", "shared system prompt"})
"""Those whose length is told in tokens of the model."""


def is_measured(spec: WorkloadSpec) -> bool:
    return spec.kind in _MEASURED


def scenario(spec: WorkloadSpec, density: Density, timeout_s: float) -> Scenario:
    """Raises `SuiteError` where the kind, or an option of it, is none."""
    maker = KINDS.get(spec.kind)
    if maker is None:
        raise SuiteError(f"workload {spec.name!r}: there is no kind {spec.kind!r}; there are {', '.join(KINDS)}")
    options: dict[str, Any] = {**spec.options, **({"density": density} if is_measured(spec) else {})}
    try:
        return replace(maker(**options), name=spec.name, timeout_s=timeout_s)
    except (TypeError, ValueError) as error:
        raise SuiteError(f"workload {spec.name!r} of kind {spec.kind!r}: {error}") from error


def record(spec: WorkloadSpec, asked: Scenario) -> WorkloadRecord:
    counts = {"requests": spec.requests} if spec.streams else {}
    counts |= {"arrivals": spec.arrivals} if spec.rates_per_s else {}
    return WorkloadRecord(spec.name, asked.description, {**asked.parameters, "max_tokens": asked.max_tokens, **counts})
