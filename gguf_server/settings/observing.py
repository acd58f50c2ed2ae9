"""The tables of those who watch: metrics and traces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from gguf_server.settings.base import Strict


class MetricsSettings(Strict):
    """`/metrics`, for Prometheus. On the listeners that clients use it is there in any case, and wants a key."""

    host: str = Field(
        "127.0.0.1",
        description="Address of the metrics' own port. Anything but loopback needs a metrics key, and is served over "
        "TLS where that is configured.",
    )
    port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        None, description="A port for nothing but /metrics; no key is asked for there unless there is a metrics key."
    )
    key_file: Path | None = Field(
        None,
        description="File that holds the metrics key, which then opens /metrics everywhere, and alone does. The "
        "environment's GGUF_SERVER_METRICS_KEY goes before it.",
    )
    engines: bool = Field(True, description="Whether the engines' own metrics are fetched and shown along.")
    engine_timeout_s: float = Field(
        2.0, gt=0, le=30, description="An engine that has not told its metrics after so long is left out."
    )


class TracingSettings(Strict):
    """OpenTelemetry traces from client to engine. They need the extra: pip install 'gguf-server[otel]'."""

    endpoint: str | None = Field(
        None,
        description="Where spans are sent by OTLP over HTTP, http://HOST:4318/v1/traces for instance; absent: no "
        "traces. OTEL_EXPORTER_OTLP_HEADERS in the environment adds headers.",
    )
    service_name: str = Field("gguf-server", min_length=1, description="`service.name` of the spans.")
    sample_ratio: float = Field(
        1.0, ge=0, le=1, description="Share of the requests that are traced where the client has not decided it."
    )

    @field_validator("endpoint")
    @classmethod
    def _endpoint_is_an_address(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected http://HOST:4318/v1/traces or https://HOST/...")
        if "@" in parts.netloc:
            raise ValueError("user and password do not belong here; use OTEL_EXPORTER_OTLP_HEADERS")
        return endpoint
