"""The kinds of engine that a service's chain may have, each a table of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from gguf_server.settings.base import Strict


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
