"""From a service's settings to its engines. The one place that knows every kind there is."""

from __future__ import annotations

from pathlib import Path
from typing import Final, assert_never

from backends.base import Engine
from backends.llamacpp_engine import LlamaCppSpec, llamacpp_engine
from backends.vllm_server import VllmSpec, vllm_engine
from gguf_server.settings import EngineSettings, LlamaCppEngineSettings, ServiceSettings, VllmEngineSettings

_MOST_SEQUENCES: Final = 256  # llama.cpp's own limit; who is over it waits inside the worker


def build(service: ServiceSettings, runtime_dir: Path) -> list[Engine]:
    """The chain in its order, nothing started. Sockets go to `runtime_dir`."""
    return [_build_one(engine, service, runtime_dir) for engine in service.engines]


def _build_one(engine: EngineSettings, service: ServiceSettings, runtime_dir: Path) -> Engine:
    match engine:
        case LlamaCppEngineSettings():
            return llamacpp_engine(_llamacpp_spec(engine, service, runtime_dir), name=engine.name)
        case VllmEngineSettings():
            return vllm_engine(_vllm_spec(engine, service), name=engine.name)
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
        load_timeout_s=engine.load_timeout_s,
    )


def _vllm_spec(engine: VllmEngineSettings, service: ServiceSettings) -> VllmSpec:
    return VllmSpec(
        model=engine.model or service.weights or "",
        names=(service.model, *service.aliases),
        max_model_len=service.max_model_len,
        max_num_seqs=engine.max_num_seqs or service.max_concurrent,
        port=service.engine_port or 0,
        python=engine.python,
        quantization=engine.quantization,
        tokenizer=engine.tokenizer,
        dtype=engine.dtype,
        cuda_device=engine.cuda_device,
        gpu_memory_utilization=engine.gpu_memory_utilization,
        enforce_eager=engine.enforce_eager,
        reasoning_parser=engine.reasoning_parser,
        tool_call_parser=engine.tool_call_parser,
        images_per_prompt=engine.images_per_prompt,
        extra_args=engine.extra_args,
        load_timeout_s=engine.load_timeout_s,
    )
