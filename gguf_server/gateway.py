"""What all listeners share: the services, the keys and their limits, and who is told of every request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

from gguf_server.audit.prompt_hash import PromptHasher
from gguf_server.conditions import Condition, Guard
from gguf_server.keys import KeyRing
from gguf_server.limits.limiter import Limiter
from gguf_server.metrics.access import MetricsKey
from gguf_server.metrics.exposition import Exposition
from gguf_server.request_record import Observe, RequestRecord
from gguf_server.service import Service
from gguf_server.settings import Settings

if TYPE_CHECKING:
    from gguf_server.tracing import Tracing


@dataclass(slots=True)
class Gateway:
    """`services` by the names that the configuration gives them.

    They and the `settings` change while the server runs: whoever needs them asks for each request. `retiring` are
    services that are gone but for what they still have to answer; `shared_routes` what the shared listener offers
    besides services. `conditions` are by the names of the parts whose they are; `prompt_hasher` is there while requests
    are audited.
    """

    settings: Settings
    keyring: KeyRing
    services: dict[str, Service]
    observers: list[Observe] = field(default_factory=list)
    metrics_key: MetricsKey | None = None
    tracing: Tracing | None = None
    limiter: Limiter = field(default_factory=Limiter)
    exposition: Exposition = field(init=False)
    guards: list[Guard] = field(default_factory=list)
    conditions: dict[str, Condition] = field(default_factory=dict)
    prompt_hasher: PromptHasher | None = None
    retiring: list[Service] = field(default_factory=list)
    shared_routes: list[web.RouteDef] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.exposition = Exposition(self.settings.metrics, self.conditions, self.limiter)
        self.observers += [self._note_figures, self.exposition.requests.observe]

    @property
    def shared_mounts(self) -> Mapping[str, Service]:
        """The paths of the shared listener and whose they are."""
        return {path: service for service in self.services.values() for path in service.settings.paths}

    def _note_figures(self, record: RequestRecord) -> None:
        service = self.services.get(record.service or "")
        if service is not None:
            service.figures.observe(record, asyncio.get_running_loop().time())
