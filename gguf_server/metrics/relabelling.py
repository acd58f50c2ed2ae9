"""Metrics of several engines made into one exposition: their names stay, labels say whose they are, and each family is
there once.

An engine's text is not trusted. What it calls by a name of the gateway's own is left out, as are the figures of its
Python interpreter and process; a label of its own that is named like one of ours becomes `exported_…`, as Prometheus
itself does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

MOST_SAMPLES: Final = 20_000
"""Of one engine."""

_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_TYPES: Final = frozenset(("counter", "gauge", "histogram", "summary", "unknown"))
_NOT_SHOWN: Final = ("python_", "process_")
_OURS: Final = "gguf_"
_WORKERS: Final = "gguf_worker_"


class Nonsense(Exception):
    """What an engine told is not Prometheus' text format, or more than anybody reads."""


class Families:
    """`add` each engine's text, then `collect`."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}
        self._seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()

    def add(self, text: str, labels: Mapping[str, str]) -> None:
        """All of it or, with `Nonsense`, nothing."""
        try:
            families = [family for family in text_string_to_metric_families(text) if _is_shown(family)]
        except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
            raise Nonsense("it is not Prometheus' text format") from error
        if sum(len(family.samples) for family in families) > MOST_SAMPLES:
            raise Nonsense(f"it holds more than {MOST_SAMPLES} samples")
        for family in families:
            self._merge(family, labels)

    def collect(self) -> Iterator[Metric]:
        return iter(self._families.values())

    def _merge(self, family: Metric, labels: Mapping[str, str]) -> None:
        if not family.samples:
            return
        written = f"{family.name}_total" if family.type == "counter" else family.name
        known = self._families.setdefault(written, Metric(family.name, family.documentation, family.type))
        if known.type != family.type:
            return
        for sample in family.samples:
            said = _labelled(sample.labels, labels)
            key = (sample.name, frozenset(said.items()))
            if key not in self._seen and all(_LABEL.fullmatch(name) for name in said):
                self._seen.add(key)
                known.samples.append(Sample(sample.name, said, sample.value))


def _is_shown(family: Metric) -> bool:
    name = family.name
    if family.type not in _TYPES or not _NAME.fullmatch(name) or name.endswith("_created"):
        return False
    return not name.startswith(_NOT_SHOWN) and (not name.startswith(_OURS) or name.startswith(_WORKERS))


def _labelled(said: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    return {f"exported_{name}" if name in ours else name: value for name, value in said.items()} | dict(ours)
