"""From a service's settings to its engines. The one place that knows every kind there is."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final, assert_never

from backends.base import Dialect, Engine
from backends.external import ExternalEngine, ExternalSpec
from backends.llama_server import LlamaServerSpec, llama_server_engine
from backends.llamacpp_engine import LlamaCppSpec, llamacpp_engine
from backends.vllm.engine import vllm_engine
from backends.vllm.memory import CardMemory
from backends.vllm.spec import VllmSpec
from gguf_server import gpus
from gguf_server.card_memory import Read
from gguf_server.engine_memory import EngineMemory
from gguf_server.forecast import Forecast, MakePlan
from gguf_server.llama_plan import plan_llama_server, plan_worker
from gguf_server.settings import ServiceSettings
from gguf_server.settings.engines import (
    EngineSettings,
    LlamaCppEngineSettings,
    LlamaServerEngineSettings,
    OpenAIEngineSettings,
    VllmEngineSettings,
)
from gguf_server.vllm_plan import plan_vllm_engine

_MOST_SEQUENCES: Final = 256  # llama.cpp's own limit; who is over it waits inside the worker


def build(service: ServiceSettings, runtime_dir: Path) -> list[Engine]:
    """The chain in its order, nothing started. Sockets go to `runtime_dir`."""
    return [_build_one(engine, service, runtime_dir) for engine in service.engines]


def blueprint(service: ServiceSettings) -> tuple[object, ...]:
    """What the engines are asked to be: equal for settings that make the same chain."""
    return tuple((engine.name, _spec(engine, service)) for engine in service.engines)


def _spec(engine: EngineSettings, service: ServiceSettings) -> object:
    nowhere = Path()
    match engine:
        case LlamaCppEngineSettings():
            return _llamacpp_spec(engine, service, nowhere)
        case VllmEngineSettings():
            return _vllm_spec(engine, service, nowhere)
        case LlamaServerEngineSettings():
            return _llama_server_spec(engine, service, nowhere)
        case OpenAIEngineSettings():
            return _external_spec(engine, service)
    assert_never(engine)


def forecasts(service: ServiceSettings, runtime_dir: Path, read_cards: Read | None) -> list[Forecast]:
    """One for each engine of the chain. Nothing is planned yet."""
    return [_forecast(engine, service, runtime_dir, read_cards) for engine in service.engines]


def _forecast(engine: EngineSettings, service: ServiceSettings, runtime_dir: Path, read_cards: Read | None) -> Forecast:
    if isinstance(engine, OpenAIEngineSettings):
        return Forecast(policy=service.plan)
    is_on_card = isinstance(engine, VllmEngineSettings) or engine.device != "cpu"
    memory = EngineMemory(read_cards if is_on_card else None, engine.cuda_device)
    return Forecast(_planning(engine, service, runtime_dir), memory, service.plan)


def _planning(
    engine: LlamaCppEngineSettings | VllmEngineSettings | LlamaServerEngineSettings,
    service: ServiceSettings,
    runtime_dir: Path,
) -> MakePlan:
    match engine:
        case LlamaCppEngineSettings():
            return partial(plan_worker, _llamacpp_spec(engine, service, runtime_dir))
        case LlamaServerEngineSettings():
            return partial(plan_llama_server, _llama_server_spec(engine, service, runtime_dir))
        case VllmEngineSettings():
            return partial(plan_vllm_engine, _vllm_spec(engine, service, runtime_dir))
    assert_never(engine)


def _build_one(engine: EngineSettings, service: ServiceSettings, runtime_dir: Path) -> Engine:
    match engine:
        case LlamaCppEngineSettings():
            return llamacpp_engine(_llamacpp_spec(engine, service, runtime_dir), name=engine.name)
        case VllmEngineSettings():
            return vllm_engine(_vllm_spec(engine, service, runtime_dir), name=engine.name, read_card=_card_memory)
        case LlamaServerEngineSettings():
            return llama_server_engine(_llama_server_spec(engine, service, runtime_dir), name=engine.name)
        case OpenAIEngineSettings():
            return ExternalEngine(_external_spec(engine, service), name=engine.name)
    assert_never(engine)


def _llamacpp_spec(engine: LlamaCppEngineSettings, service: ServiceSettings, runtime_dir: Path) -> LlamaCppSpec:
    return LlamaCppSpec(
        weights=service.weights or engine.weights or "",
        alias=service.model,
        runtime_dir=runtime_dir,
        device=engine.device,
        cuda_device=engine.cuda_device,
        n_ctx=service.max_model_len,
        n_parallel=engine.n_parallel or min(service.max_concurrent, _MOST_SEQUENCES),
        n_ctx_total=engine.n_ctx_total,
        n_batch=engine.n_batch,
        n_ubatch=engine.n_ubatch,
        n_threads=engine.n_threads,
        n_gpu_layers=engine.n_gpu_layers,
        flash_attn=engine.flash_attn,
        cache_type_k=engine.cache_type_k,
        cache_type_v=engine.cache_type_v,
        use_mmap=engine.use_mmap,
        reasoning_format=engine.reasoning_format,
        chat_template_file=engine.chat_template_file,
        embeds=service.task == "embed",
        matryoshka=engine.matryoshka,
        cache_ram_mib=engine.cache_ram_mib,
        speculation=engine.speculation,
        load_timeout_s=engine.load_timeout_s,
        mmproj=projector_of(engine, service),
        images_per_prompt=engine.images_per_prompt,
        image_hosts=service.image_hosts,
        private_image_hosts=engine.private_image_hosts,
    )


def projector_of(engine: LlamaCppEngineSettings | LlamaServerEngineSettings, service: ServiceSettings) -> str | None:
    """An engine's own image encoder belongs to its own weights, and fits no others."""
    return service.mmproj or (engine.mmproj if service.weights is None else None)


def _vllm_spec(engine: VllmEngineSettings, service: ServiceSettings, runtime_dir: Path) -> VllmSpec:
    return VllmSpec(
        model=engine.model or service.weights or "",
        names=(service.model, *service.aliases),
        max_model_len=service.max_model_len,
        max_num_seqs=engine.max_num_seqs or service.max_concurrent,
        port=service.engine_port or 0,
        runtime_dir=runtime_dir,
        python=engine.python,
        quantization=engine.quantization,
        tokenizer=engine.tokenizer,
        hf_config_path=engine.hf_config_path,
        trust_gguf_architecture=engine.trust_gguf_architecture,
        dtype=engine.dtype,
        kv_cache_dtype=engine.kv_cache_dtype,
        cuda_device=engine.cuda_device,
        gpu_memory_utilization=engine.gpu_memory_utilization,
        weights_gib=engine.weights_gib,
        smaller_preset=engine.smaller_preset,
        enforce_eager=engine.enforce_eager,
        reasoning_parser=engine.reasoning_parser,
        tool_call_parser=engine.tool_call_parser,
        images_per_prompt=engine.images_per_prompt,
        embeds=service.task == "embed",
        image_hosts=service.image_hosts,
        extra_args=engine.extra_args,
        load_timeout_s=engine.load_timeout_s,
    )


def _card_memory(index: int | None) -> CardMemory | None:
    """Of the card with this index, or of the only one; vLLM itself chooses where there are several."""
    cards = gpus.read() or []
    if index is None and len(cards) > 1:
        return None
    card = next(iter(cards[index or 0 : (index or 0) + 1]), None)
    if card is None:
        return None
    used, total = card["memory_used_bytes"], card["memory_total_bytes"]
    return CardMemory(free_bytes=total - used, total_bytes=total)


def _llama_server_spec(
    engine: LlamaServerEngineSettings, service: ServiceSettings, runtime_dir: Path
) -> LlamaServerSpec:
    return LlamaServerSpec(
        weights=service.weights or engine.weights or "",
        alias=service.model,
        runtime_dir=runtime_dir,
        n_ctx=service.max_model_len,
        binary=engine.binary,
        mmproj=projector_of(engine, service),
        device=engine.device,
        cuda_device=engine.cuda_device,
        n_parallel=engine.n_parallel or min(service.max_concurrent, _MOST_SEQUENCES),
        n_threads=engine.n_threads,
        n_gpu_layers=engine.n_gpu_layers,
        reasoning_format=engine.reasoning_format,
        chat_template_file=engine.chat_template_file,
        extra_args=engine.extra_args,
        load_timeout_s=engine.load_timeout_s,
    )


def _external_spec(engine: OpenAIEngineSettings, service: ServiceSettings) -> ExternalSpec:
    return ExternalSpec(
        url=engine.url,
        model=engine.model,
        api_key_env=engine.api_key_env,
        api_key_file=engine.api_key_file,
        dialect=None if engine.dialect == "auto" else Dialect(engine.dialect),
        embeds=service.task == "embed",
        start_timeout_s=engine.start_timeout_s,
    )


def vllm_spec(engine: VllmEngineSettings, service: ServiceSettings) -> VllmSpec:
    """What such an engine would be asked to be, for those who only want to know."""
    return _vllm_spec(engine, service, Path())
