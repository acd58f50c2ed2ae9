"""What an operator is answered, for its description."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from gguf_server.api.answers import Answered


class Health(Answered):
    status: Literal["healthy"]
    service: str
    model: str
    engine: str | None = Field(description="Who answers: the name of the engine that serves.")
    vllm_server: Literal["healthy", "unavailable"] = Field(description="vLLM alone; another engine may serve.")
    timestamp: str = Field(description="ISO 8601, UTC.")


class NotHealthy(Answered):
    status: str
    service: str
    model: str
    engine: str | None
    vllm_server: Literal["healthy", "unavailable"]
    vllm_url: str | None
    loading: bool = Field(description="Whether an engine is on its way.")
    timestamp: str


class ServiceIndex(Answered):
    service: str
    model: str
    vllm_ready: bool
    ready: bool = Field(description="Whether any engine serves.")
    engine: str | None
    endpoints: list[str]


class EngineFailureStatus(Answered):
    reason: str
    detail: str
    exit_code: int | None
    at: str | None
    log_tail: list[str] = Field(description="The last lines that the engine printed.")


class EngineStatus(Answered):
    name: str
    kind: str
    device: str
    state: str
    pid: int | None
    since: str
    starts: int
    load_s: float | None = Field(description="What its last start took, seconds.")
    plan: dict[str, Any] = Field(description="Memory and speed as planned and as measured.")
    failures: dict[str, int] = Field(description="How often it failed, by reason.")
    last_failure: EngineFailureStatus | None


class QueueStatus(Answered):
    running: int
    waiting: int
    max_concurrent: int
    max_queue: int


class Totals(Answered):
    """Since start."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    truncated: int = Field(description="Requests whose conversation was shortened.")
    failovers: int = Field(description="Moves of a request to another engine.")
    unknown_fields: int


class FirstToken(Answered):
    """Seconds from a request's arrival."""

    p50: float
    p95: float


class EngineMove(Answered):
    at: str
    source: str = Field(alias="from", description="The engine that was left.")
    to: str | None = Field(description="The engine that took over; null: none, so far.")
    reason: str
    scope: str = Field(description="service: new requests go elsewhere; request: some that had begun did.")
    count: int = Field(description="How many requests moved so within a minute.")


class LiveStatus(Answered):
    """The last `window_s` seconds."""

    window_s: float
    tokens_per_s: float
    requests_per_min: float
    ttft_s: FirstToken | None = Field(description="Null where no stream ended within that time.")
    errors: int = Field(description="Requests that failed, inside a stream or with a 5xx.")
    recent_failovers: list[EngineMove] = Field(description="Since start, newest first, the last 20.")


class ServiceStatus(Answered):
    service: str
    title: str
    model: str
    model_id: str
    max_model_len: int
    ready: bool
    vllm_ready: bool
    engine: str | None
    engines: list[EngineStatus] = Field(description="The chain, most wanted first.")
    queue: QueueStatus
    totals: Totals
    live: LiveStatus
    limits: dict[str, Any] = Field(description="Where what keys used is counted, and how much was refused.")
    uptime_s: float
    draining: bool
    problems: dict[str, str] = Field(description="Why usage or the audit cannot be written just now, by its name.")
    gpu: list[dict[str, Any]] | None = Field(description="Memory per card; null on a machine without.")
    timestamp: str


class Directory(Answered):
    services: dict[str, str] = Field(description="Titles by the paths where the services answer.")


class DirectoryHealth(Answered):
    status: Literal["healthy", "not ready"]
    services: dict[str, dict[str, Any]] = Field(description="Each service's own `/health`, by its name.")


class OpenapiDocument(Answered):
    openapi: Literal["3.1.0"]
    info: dict[str, Any]
    paths: dict[str, Any]
    components: dict[str, Any]
