"""The worker's settings and their command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backends.llamacpp.image_decoding import ImageLimits

API_KEY_VARIABLE: Final = "GGUF_WORKER_API_KEY"
CHECK_CACHE_VARIABLE: Final = "GGUF_WORKER_CHECK_CACHE"
DEFAULT_CACHE_RAM_MIB: Final = 1024
DEFAULT_MAX_N_CTX: Final = 8192


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """`n_ctx` is the most tokens of one request (None: the model's, at most 8,192); `n_ctx_total` the cells shared by
    all (None: `n_ctx` for each of `n_parallel`). An empty `api_key` lets everybody in. Without an `mmproj` images are
    refused; `image_hosts` are those that they may be fetched from. `checks_cache` is for tests."""

    model: Path
    aliases: tuple[str, ...]
    host: str
    port: int
    uds: Path | None
    api_key: str
    device: str
    n_ctx: int | None
    n_parallel: int
    n_ctx_total: int | None
    n_batch: int
    n_ubatch: int
    n_threads: int | None
    n_gpu_layers: int
    flash_attn: str
    cache_type_k: str
    cache_type_v: str
    use_mmap: bool
    reasoning_format: str
    chat_template_file: Path | None
    max_waiting: int
    cache_ram_mib: int
    checks_cache: bool
    embedding: bool
    matryoshka: bool
    speculation: str
    mmproj: Path | None = None
    image_limits: ImageLimits = field(default_factory=ImageLimits)
    image_hosts: tuple[str, ...] = ()
    private_image_hosts: bool = False
    image_cache_bytes: int = 256 << 20


def parse(argv: list[str] | None = None) -> WorkerOptions:
    """Exits with status 2 and a usage line on arguments that make no sense."""
    parser = _parser()
    given = parser.parse_args(argv)
    return WorkerOptions(
        model=given.model,
        aliases=tuple(given.alias or [given.model.stem]),
        host=given.host,
        port=given.port,
        uds=given.uds,
        api_key=os.environ.get(API_KEY_VARIABLE, ""),
        device=given.device,
        n_ctx=given.n_ctx,
        n_parallel=given.n_parallel,
        n_ctx_total=given.n_ctx_total,
        n_batch=given.n_batch,
        n_ubatch=given.n_ubatch,
        n_threads=given.threads,
        n_gpu_layers=given.n_gpu_layers,
        flash_attn=given.flash_attn,
        cache_type_k=given.cache_type_k,
        cache_type_v=given.cache_type_v,
        use_mmap=not given.no_mmap,
        reasoning_format=given.reasoning_format,
        chat_template_file=given.chat_template_file,
        max_waiting=given.max_waiting,
        cache_ram_mib=given.cache_ram_mib,
        checks_cache=bool(os.environ.get(CHECK_CACHE_VARIABLE)),
        embedding=given.embedding,
        matryoshka=given.matryoshka,
        mmproj=given.mmproj,
        image_limits=ImageLimits(given.images_per_prompt, given.image_max_bytes, given.image_max_pixels),
        image_hosts=tuple(given.image_host or ()),
        private_image_hosts=given.private_image_hosts,
        image_cache_bytes=given.image_cache_mib << 20,
        speculation=given.speculation,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m backends.llamacpp",
        description="Serve one GGUF over the OpenAI API. "
        f"The environment variable {API_KEY_VARIABLE} sets a key that requests must bring.",
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="FILE")
    add("--alias", action="append", metavar="ID", help="model id to answer to; may be repeated")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8080)
    add("--uds", type=Path, metavar="PATH", help="listen on a UNIX socket instead")
    add("--device", choices=["auto", "cuda", "cpu"], default="auto")
    add("--n-ctx", type=_positive, help="most tokens of one request")
    add("--n-parallel", type=_positive, default=4, help="requests computed at once")
    add("--n-ctx-total", type=_positive, help="KV cache cells over all requests")
    add("--n-batch", type=_positive, default=512)
    add("--n-ubatch", type=_positive, default=512)
    add("--threads", type=_positive)
    add("--n-gpu-layers", type=int, default=-1, help="-1: all")
    add("--flash-attn", choices=["auto", "on", "off"], default="auto")
    types = ["f32", "f16", "bf16", "q8_0", "q4_0"]
    add("--cache-type-k", choices=types, default="f16")
    add("--cache-type-v", choices=types, default="f16")
    add("--no-mmap", action="store_true")
    add("--reasoning-format", choices=["auto", "none", "think", "gemma4"], default="auto")
    add("--chat-template-file", type=Path, metavar="FILE")
    add("--max-waiting", type=_positive, default=1024, help="requests that may wait for a sequence")
    add(
        "--cache-ram-mib",
        type=_not_negative,
        default=DEFAULT_CACHE_RAM_MIB,
        metavar="MIB",
        help="RAM for prompts that had to leave the KV cache; 0: none",
    )
    add("--embedding", action="store_true", help="make vectors of texts, also with a model that says nothing of it")
    add("--matryoshka", action="store_true", help="the model's vectors may be cut short: allow `dimensions`")
    _add_image_options(add)
    add(
        "--speculation",
        choices=["off", "lookup"],
        default="off",
        help="lookup: compute what followed the same words before along with the next token",
    )
    return parser


def _add_image_options(add: Callable[..., object]) -> None:
    limits = ImageLimits()
    add("--mmproj", type=Path, metavar="FILE", help="GGUF of the image encoder, for a model that takes images")
    add("--images-per-prompt", type=_positive, default=limits.max_images)
    add("--image-max-bytes", type=_positive, default=limits.max_bytes, help="of one image's file")
    add("--image-max-pixels", type=_positive, default=limits.max_pixels, help="of one image")
    add("--image-cache-mib", type=int, default=256, help="memory for encoded images that may be asked about again")
    add("--image-host", action="append", metavar="HOST", help="host to fetch images from; may be repeated")
    add("--private-image-hosts", action="store_true", help="let those hosts be in a private network")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value
