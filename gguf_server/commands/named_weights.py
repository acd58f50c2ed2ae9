"""What somebody means by a name on the command line: a preset, or a reference to weights."""

from __future__ import annotations

from collections.abc import Iterable

from gguf_server import config
from gguf_server.service_weights import needed
from weights.reference import Hub, HubFile, HubQuant, HubRepo, Reference, parse_model


def meant_by(names: Iterable[str]) -> tuple[Reference, ...]:
    """A preset means all files of all its engines. Raises `WeightsMissing` for what cannot be a reference."""
    found = [
        reference
        for name in names
        for reference in (_of_preset(name) if name in config.preset_names() else (parse_model(name),))
    ]
    return tuple(dict.fromkeys(found))


def of_hub(references: Iterable[Reference]) -> tuple[Hub, ...]:
    return tuple(reference for reference in references if isinstance(reference, HubFile | HubQuant | HubRepo))


def files_in_words(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _of_preset(name: str) -> tuple[Reference, ...]:
    services = config.load(presets=[name], environ={}).services
    return tuple(reference for service in services.values() for reference in needed(service))
