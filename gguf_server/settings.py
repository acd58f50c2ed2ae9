"""The whole configuration, typed.

Every quantity carries its unit in its name. A service is data: a model, an ordered chain of engines, limits, defaults
and mount points; nothing about a particular model is written anywhere else in the gateway. How a file, a preset and
the environment become one `Settings` is the business of `gguf_server.config`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from gguf_server.settings_base import ADMIN_PATH
from gguf_server.settings_base import Strict as Strict
from gguf_server.settings_books import AuditSettings, UsageSettings
from gguf_server.settings_limits import LimitsSettings
from gguf_server.settings_listening import ConnectionSettings, CorsSettings, TlsSettings
from gguf_server.settings_observing import MetricsSettings, TracingSettings
from gguf_server.settings_ui import UI_PATH, UiSettings

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


class LlamaCppEngineSettings(Strict):
    """One llama.cpp worker of this repository (`python -m backends.llamacpp`)."""

    kind: Literal["llamacpp"]
    name: str = Field("llama.cpp", description="What `x-engine` and `/status` call it.")
    device: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="cuda refuses to start without a card; auto takes one where it finds one."
    )
    weights: str | None = Field(None, description="GGUF of this engine; the service's `weights` goes before it.")
    mmproj: str | None = Field(
        None,
        description="GGUF of the image encoder, for a model that takes images. Where the file is missing, and where "
        "the service's `weights` go before the engine's, the engine refuses images.",
    )
    images_per_prompt: int = Field(8, ge=1, description="Most images in one request.")
    private_image_hosts: bool = Field(False, description="Let the `image_hosts` be in a private network.")
    cuda_device: int | None = Field(None, ge=0, description="Index of the card; all visible cards when absent.")
    n_gpu_layers: int = Field(-1, ge=-1, description="Layers on the GPU; -1 is all of them.")
    n_parallel: int | None = Field(None, ge=1, le=256, description="Sequences at once; max_concurrent when absent.")
    n_ctx_total: int | None = Field(
        None, ge=256, description="KV cache cells over all sequences; max_model_len x n_parallel when absent."
    )
    n_batch: int = Field(512, ge=32, description="Most tokens in one step.")
    n_ubatch: int = Field(512, ge=32, description="Most tokens that are computed at a time within a step.")
    n_threads: int | None = Field(None, ge=1, description="CPU threads; the machine's cores when absent.")
    flash_attn: Literal["auto", "on", "off"] = "auto"
    cache_type_k: Literal["f32", "f16", "bf16", "q8_0", "q4_0"] = "f16"
    cache_type_v: Literal["f32", "f16", "bf16", "q8_0", "q4_0"] = "f16"
    use_mmap: bool = True
    reasoning_format: Literal["auto", "none", "think", "gemma4"] = "auto"
    chat_template_file: Path | None = Field(None, description="A Jinja template used in place of the GGUF's own.")
    matryoshka: bool = Field(
        False, description="The vectors of this embedding model may be cut short: `dimensions` is allowed."
    )
    cache_ram_mib: int = Field(
        1024, ge=0, description="MiB of RAM for prompts that had to leave the KV cache, to be put back later; 0: none."
    )
    speculation: Literal["off", "lookup"] = Field(
        "off", description="lookup: what followed the same words before is computed along with the next token."
    )
    load_timeout_s: float = Field(600.0, gt=0)


class VllmEngineSettings(Strict):
    """One `vllm serve`, in whatever interpreter `python` names."""

    kind: Literal["vllm"]
    name: str = Field("vllm", description="What `x-engine` and `/status` call it.")
    python: Path | None = Field(None, description="Interpreter that has vLLM; the gateway's own when absent.")
    model: str | None = Field(None, description="Hub id, OWNER/NAME:QUANT, or path; absent: the service's `weights`.")
    quantization: Literal["gguf", "bitsandbytes", "awq"] | None = Field(
        None, description="What the plugins depend on; a reference to a GGUF file says it itself."
    )
    tokenizer: str | None = Field(None, description="Source of tokenizer and config.json; a GGUF needs it.")
    hf_config_path: str | None = Field(None, description="Source of config.json where it is not the tokenizer's.")
    trust_gguf_architecture: bool = Field(
        False,
        description="Load a GGUF that is known to come out wrong with this version of the plugin; for patched plugins.",
    )
    dtype: Literal["auto", "float16", "bfloat16"] = "auto"
    kv_cache_dtype: Literal["auto", "fp8", "fp8_e4m3", "fp8_e5m2"] = Field(
        "auto", description="fp8 halves the memory of the context."
    )
    cuda_device: int | None = Field(None, ge=0, description="Index of the card, as nvidia-smi counts.")
    gpu_memory_utilization: float = Field(0.92, gt=0, le=1, description="Share of the card's whole memory.")
    weights_gib: float | None = Field(None, gt=0, description="Size of the weights on the card, to warn in time.")
    smaller_preset: str | None = Field(None, description="Named in that warning.")
    max_num_seqs: int | None = Field(None, ge=1, description="max_concurrent when absent.")
    enforce_eager: bool = Field(False, description="No CUDA graphs: starts sooner, needs less memory, is slower.")
    reasoning_parser: str | None = None
    tool_call_parser: str | None = None
    images_per_prompt: int = Field(0, ge=0)
    extra_args: tuple[str, ...] = Field(
        (), description="Further arguments of `vllm serve`; they win over the gateway's."
    )
    load_timeout_s: float = Field(900.0, gt=0)


class LlamaServerEngineSettings(Strict):
    """One `llama-server`, llama.cpp's own program (of June 2026 or newer), as a process of the gateway's."""

    kind: Literal["llama-server"]
    name: str = Field("llama-server", description="What `x-engine` and `/status` call it.")
    binary: str = Field("llama-server", description="Path of the program, or its name on PATH.")
    device: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="cuda refuses to start without a card; auto takes one where it finds one."
    )
    weights: str | None = Field(None, description="GGUF of this engine; the service's `weights` goes before it.")
    mmproj: str | None = Field(None, description="GGUF of the image encoder, for a model that takes images.")
    cuda_device: int | None = Field(None, ge=0, description="Index of the card; all visible cards when absent.")
    n_gpu_layers: int = Field(-1, ge=-1, description="Layers on the GPU; -1 is all of them.")
    n_parallel: int | None = Field(None, ge=1, le=256, description="Sequences at once; max_concurrent when absent.")
    n_threads: int | None = Field(None, ge=1, description="CPU threads; the machine's cores when absent.")
    reasoning_format: Literal["deepseek", "auto", "none"] = Field(
        "deepseek", description="deepseek: thoughts in `reasoning_content`; none: left in the answer."
    )
    chat_template_file: Path | None = Field(None, description="A Jinja template used in place of the GGUF's own.")
    extra_args: tuple[str, ...] = Field((), description="Further arguments; they win over those of the gateway.")
    load_timeout_s: float = Field(600.0, gt=0)


class OpenAIEngineSettings(Strict):
    """A server that somebody else runs: a vLLM or llama-server on another machine, Ollama, anything of OpenAI's API."""

    kind: Literal["openai"]
    name: str = Field("openai", description="What `x-engine` and `/status` call it.")
    url: str = Field(description="http:// or https://, with or without /v1 at the end.")
    model: str | None = Field(None, description="What that server calls the model; the first it lists when absent.")
    api_key_env: str | None = Field(
        None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Environment variable that holds its API key."
    )
    api_key_file: Path | None = Field(None, description="File that holds its API key; read at each start.")
    dialect: Literal["auto", "vllm", "llama-server", "openai"] = Field(
        "auto", description="What it speaks beyond OpenAI's API; auto: it is asked at each start."
    )
    start_timeout_s: float = Field(90.0, gt=0, description="A server that is still loading is waited for so long.")

    @field_validator("url")
    @classmethod
    def _url_is_of_a_server(cls, url: str) -> str:
        """A key in the address would end up in logs and error messages."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("expected http://HOST:PORT or https://HOST, with or without /v1")
        if "@" in parts.netloc:
            raise ValueError("user and password do not belong here; use api_key_env or api_key_file")
        if parts.query or parts.fragment:
            raise ValueError("expected an address without ? and #")
        return url

    @model_validator(mode="after")
    def _one_key(self) -> OpenAIEngineSettings:
        if self.api_key_env is not None and self.api_key_file is not None:
            raise ValueError("give api_key_env or api_key_file, not both")
        return self


EngineSettings = Annotated[
    LlamaCppEngineSettings | VllmEngineSettings | LlamaServerEngineSettings | OpenAIEngineSettings,
    Field(discriminator="kind"),
]


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
