"""The whole configuration, typed.

Every quantity carries its unit in its name. A service is data: a model, an ordered chain of engines, limits, defaults
and mount points; nothing about a particular model is written anywhere else in the gateway. How a file, a preset and
the environment become one `Settings` is the business of `gguf_server.config`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gguf_server.settings.base import ADMIN_PATH
from gguf_server.settings.base import Strict as Strict
from gguf_server.settings.books import AuditSettings, UsageSettings
from gguf_server.settings.engines import EngineSettings
from gguf_server.settings.limits import LimitsSettings
from gguf_server.settings.listening import ConnectionSettings, CorsSettings, TlsSettings
from gguf_server.settings.observing import MetricsSettings, TracingSettings
from gguf_server.settings.ui import UI_PATH, UiSettings

Port = Annotated[int, Field(ge=0, le=65535)]
HostName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
AllowedHost = Annotated[str, Field(pattern=r"^(\*|(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?)$")]
MountPath = Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*$")]


class ServerSettings(Strict):
    """The shared listener and what belongs to the process as a whole."""

    host: str = Field("127.0.0.1", description="Address of every listener. Anything but loopback needs a key.")
    port: Port = Field(8040, description="Port of the shared listener, where each service has its paths.")
    allowed_hosts: tuple[AllowedHost, ...] = Field(
        (),
        description='Names by which clients may call the server, "*.NAME" with all below it; addresses always are. '
        'Absent: on a loopback host those of this machine, elsewhere any, as "*" says.',
    )
    keys_file: Path | None = Field(None, description="Key file; by default keys.json in the state directory.")
    max_body_bytes: int = Field(10 * 1024 * 1024, ge=1024, description="A larger body is answered 413.")
    drain_s: float = Field(30.0, ge=0, description="After SIGTERM, running answers have this long to finish.")
    watch: bool = Field(True, description="Read the configuration again when its file changes, as on SIGHUP.")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto: coloured on a terminal, JSON lines elsewhere."
    )


class DocsSettings(Strict):
    """The API's description."""

    enabled: bool = Field(True, description="Whether /openapi.json and /docs are there, on every listener, for all.")


class SamplingDefaults(Strict):
    """What a request that does not say otherwise is sampled with. None leaves the engine's own default."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)


class FailoverSettings(Strict):
    """When an engine counts as gone, and when one that failed is tried again. Times in seconds."""

    stall_s: float = Field(
        30.0, gt=0, description="No byte from the engine for so long while requests run: it is asked whether it lives."
    )
    probe_every_s: float = Field(30.0, gt=0, description="An idle engine is asked for one token this often.")
    probe_timeout_s: float = Field(15.0, gt=0, description="Without that token after so long the engine hangs.")
    max_failures: int = Field(5, ge=1, description="Requests failed in a row, none between them answered: it is gone.")
    failback: bool = Field(True, description="Whether an engine earlier in the chain is tried again in the background.")
    failback_after_s: float = Field(30.0, gt=0, description="First pause before that; it doubles with each failure.")
    failback_longest_s: float = Field(1800.0, gt=0, description="The longest such pause.")
    stable_after_s: float = Field(60.0, gt=0, description="One that served so long has a clean slate.")


class ServiceSettings(Strict):
    """One model behind its own port and paths."""

    preset: str | None = Field(None, description="Preset whose values these override; the table's name when it is one.")
    model: str = Field(description="Public model id.")
    aliases: tuple[str, ...] = Field((), description="Other names accepted in `model`.")
    reported_model: str | None = Field(None, description="`model` as /chat and /health report it; `model` when absent.")
    service_name: str = Field(description="`service` in /health.")
    title: str = Field(description="`service` in GET /.")
    paths: tuple[MountPath, ...] = Field(description='Mount points on the shared listener; "" is its root.')
    port: Port | None = Field(None, description="Own port of the service, mounted at the root there.")
    engine_port: Port | None = Field(None, description="Loopback port of the vLLM engine.")
    task: Literal["generate", "embed"] = Field(
        "generate", description="embed: the model makes vectors of texts, which /v1/embeddings gives."
    )
    weights: str | None = Field(
        None, description="Path, hf:REPO/FILE, hf:REPO:QUANT or pkg:NAME. Goes before the engines' own."
    )
    mmproj: str | None = Field(None, description="Image encoder of these weights. Goes before the engines' own.")
    engines: tuple[EngineSettings, ...] = Field(min_length=1, description="The chain, most wanted first.")
    max_model_len: int = Field(ge=256, description="Context of one request, tokens.")
    max_concurrent: int = Field(4, ge=1, description="Requests computed at once.")
    max_queue: int = Field(64, ge=0, description="Requests that may wait; one more is answered 429.")
    timeout_s: float = Field(600.0, gt=0, description="A request that runs longer is answered 504.")
    default_max_tokens: int = Field(1024, ge=1)
    max_tokens_limit: int | None = Field(None, ge=1, description="Largest max_tokens; max_model_len when absent.")
    standby: Literal["cold", "warm"] = Field(
        "cold", description="warm: the next engine of the chain that needs no card in use is kept loaded as well."
    )
    failover: FailoverSettings = FailoverSettings()
    plan: Literal["enforce", "warn", "off"] = Field(
        "enforce",
        description="Before each load the memory it will need is told from the model's file. enforce: an engine that "
        "plainly has no room is not tried, and the next one is; warn: it is tried all the same, and /status says what "
        "speaks against it; off: nothing is planned.",
    )
    sampling: SamplingDefaults = SamplingDefaults()
    enable_thinking: bool | None = Field(None, description="Default of `enable_thinking`; absent: the template's own.")
    images: bool = Field(False, description="Whether messages may hold images.")
    image_hosts: tuple[HostName, ...] = Field(
        (), description="Hosts that an image's address may name, for the engine to fetch it; else data: URLs alone."
    )

    @model_validator(mode="after")
    def _engines_can_embed(self) -> ServiceSettings:
        if self.task == "embed" and any(engine.kind == "llama-server" for engine in self.engines):
            raise ValueError("a llama-server is not started for embeddings: use llamacpp, vllm or openai")
        return self

    @property
    def model_names(self) -> frozenset[str]:
        """Every name a request may give in `model`."""
        return frozenset((self.model, *self.aliases))

    @property
    def display_model(self) -> str:
        return self.reported_model or self.model


class Settings(Strict):
    """Everything: the server and its services by name."""

    server: ServerSettings = ServerSettings()
    metrics: MetricsSettings = MetricsSettings()
    tracing: TracingSettings = TracingSettings()
    usage: UsageSettings = UsageSettings()
    audit: AuditSettings = AuditSettings()
    ui: UiSettings = UiSettings()
    docs: DocsSettings = DocsSettings()
    limits: LimitsSettings = LimitsSettings()
    tls: TlsSettings = TlsSettings()
    cors: CorsSettings = CorsSettings()
    connections: ConnectionSettings = ConnectionSettings()
    services: dict[str, ServiceSettings] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _mounts_are_distinct(self) -> Settings:
        mounts: dict[str, str] = {}
        for name, service in self.services.items():
            if self.ui.enabled and UI_PATH in service.paths:
                raise ValueError(f"service {name!r} wants path {UI_PATH}, which is the page's: set ui.enabled = false")
            if ADMIN_PATH in service.paths:
                raise ValueError(f"service {name!r} wants path {ADMIN_PATH}, which is the operator's")
            own = [f"port {service.port}"] if service.port else []
            shared = [f"path {path or '/'}" for path in service.paths]
            for mount in own + shared:
                if (other := mounts.setdefault(mount, name)) != name:
                    raise ValueError(f"services {other!r} and {name!r} both want {mount}")
            if service.port and service.port == self.server.port:
                raise ValueError(f"service {name!r} wants port {service.port}, which is the shared listener's")
        return self
