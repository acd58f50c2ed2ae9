"""What a GGUF file says of its architecture: numbers under `ARCHITECTURE.NAME`, one for all layers or one for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from weights.gguf_header import DamagedHeader, Value


@dataclass(frozen=True, slots=True)
class Keys:
    """The pairs of a file whose keys begin with the name of its architecture. Everything raises `DamagedHeader`."""

    architecture: str
    metadata: Mapping[str, Value]

    def get(self, name: str) -> Value | None:
        return self.metadata.get(f"{self.architecture}.{name}")

    def number(self, name: str, default: int | None = None) -> int:
        """A count. Without `default` the file must have it."""
        value = self.get(name)
        if value is None:
            value = default
        if value is None:
            raise DamagedHeader(f"it does not say {self.architecture}.{name}")
        return self._count(name, value)

    def per_layer(self, name: str, n_layers: int, default: int | tuple[int, ...]) -> tuple[int, ...]:
        """A count for each layer, of which a file may say one that holds for all."""
        value = self.get(name)
        if value is None:
            value = default
        if not isinstance(value, tuple):
            return (self._count(name, value),) * n_layers
        if len(value) != n_layers:
            raise DamagedHeader(f"{self.architecture}.{name} has {len(value)} numbers for {n_layers} layers")
        return tuple(self._count(name, number) for number in value)

    def _count(self, name: str, value: Value) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise DamagedHeader(f"{self.architecture}.{name} should be a number from zero up")
        return value
