"""What the contract says of each service, written down a second time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Promise:
    """One column of the contract's table."""

    service: str
    title: str
    model: str
    reported: str
    max_model_len: int
    paths: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    takes_images: bool = False
    falls_back: bool = True


PROMISES = {
    "qwen3": Promise(
        service="qwen3_service",
        title="Qwen3-14B API",
        model="qwen3-14b",
        reported="qwen3-14b",
        max_model_len=14384,
        paths=("/qwen3",),
        aliases=("qwen3-claude-distill",),
    ),
    "gemma4": Promise(
        service="gemma4_service",
        title="Gemma 4 E4B API",
        model="gemma-4-e4b-it",
        reported="google/gemma-4-E4B-it",
        max_model_len=4096,
        paths=("/gemma4", "/gemma2"),
        aliases=("google/gemma-4-E4B-it", "gemma-2-9b-it"),
        takes_images=True,
    ),
    "qwen2.5": Promise(
        service="qwen2.5_service",
        title="Qwen2.5-7B API",
        model="qwen2.5-7b",
        reported="qwen2.5-7b",
        max_model_len=8192,
        paths=("/qwen",),
    ),
    "demo": Promise(
        service="demo_service",
        title="SmolLM2-135M API",
        model="smollm2-135m",
        reported="smollm2-135m",
        max_model_len=8192,
        paths=("", "/demo"),
        falls_back=False,
    ),
}

SHARED_MOUNTS = tuple(path for promise in PROMISES.values() for path in promise.paths)
