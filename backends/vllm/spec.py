"""What one `vllm serve` is asked to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Quantization = Literal["gguf", "bitsandbytes", "awq"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSpec:
    """One engine. `names` are the model id and its aliases; `python` is the gateway's own when absent.

    `model` is a hub id (for a GGUF also `REPO:QUANT`), a folder, or a reference to a file as `weights.refs` reads them.
    It listens on the loopback `port`; with port 0 on a socket in `runtime_dir`, or on any free port without one.
    `weights_gib` is what the weights take on the card, where that is known, and `smaller_preset` what to name to
    somebody whose card they fill.
    """

    model: str
    names: tuple[str, ...]
    max_model_len: int
    max_num_seqs: int
    port: int = 0
    runtime_dir: Path | None = None
    python: Path | None = None
    quantization: Quantization | None = None
    tokenizer: str | None = None
    hf_config_path: str | None = None
    trust_gguf_architecture: bool = False
    dtype: Literal["auto", "float16", "bfloat16"] = "auto"
    kv_cache_dtype: Literal["auto", "fp8", "fp8_e4m3", "fp8_e5m2"] = "auto"
    cuda_device: int | None = None
    gpu_memory_utilization: float = 0.92
    weights_gib: float | None = None
    smaller_preset: str | None = None
    enforce_eager: bool = False
    reasoning_parser: str | None = None
    tool_call_parser: str | None = None
    images_per_prompt: int = 0
    embeds: bool = False
    image_hosts: tuple[str, ...] = ()
    extra_args: tuple[str, ...] = ()
    load_timeout_s: float = 900.0
