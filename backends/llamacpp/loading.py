"""From options to a model in memory, or to an `EngineFailure` that says why not."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backends.base import EngineFailure, FailureReason
from backends.llamacpp.native import (
    Context,
    ContextOptions,
    EmbeddingContext,
    EmbeddingOptions,
    ImageEncoder,
    Model,
    NativeError,
    supports_gpu_offload,
)
from backends.llamacpp.options import DEFAULT_MAX_N_CTX, WorkerOptions
from backends.llamacpp.pooling import is_causal, pooling_of
from backends.llamacpp.speculation import max_draft_rows

_GGUF_VERSIONS: Final = (2, 3)
_MAX_TEXTS_IN_BATCH: Final = 64
_SCORE_BYTES: Final = 16 << 20
_MAX_SCORE_ROWS: Final = 64

# What llama.cpp says in its log when it gives up, and what that means; the first match counts.
_REASONS: Final = (
    (FailureReason.OUT_OF_MEMORY, re.compile(r"out of memory|failed to allocate|cudaMalloc failed|unable to allocate")),
    (FailureReason.UNSUPPORTED_MODEL, re.compile(r"unknown model architecture|unsupported|unknown pre-tokenizer")),
    (
        FailureReason.WEIGHTS_DAMAGED,
        re.compile(r"not within the file bounds|corrupt|incomplete|missing tensor|invalid magic|failed to read"),
    ),
    (FailureReason.INVALID_SETTINGS, re.compile(r"requires flash_attn|does not divide|n_ctx|n_batch")),
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """`n_ctx` is what one request (or one text to embed) may take, `n_ctx_total` what all share, `n_score_rows` see
    `Scheduler`; a step may hold `n_draft_rows` guesses. `encoder`: of images, where there is one.
    """

    model: Model
    context: Context | EmbeddingContext
    n_ctx: int
    n_ctx_total: int
    n_score_rows: int = 0
    encoder: ImageEncoder | None = None
    n_draft_rows: int = 0


def load(options: WorkerOptions, on_progress: Callable[[float], None]) -> Loaded:
    """Blocks until the model is in memory. Raises `EngineFailure`."""
    check_file(options.model)
    if options.mmproj is not None:
        check_file(options.mmproj)
    if options.device == "cuda" and not supports_gpu_offload():
        raise EngineFailure(
            FailureReason.NO_GPU, "this build of llama.cpp sees no GPU: no card, no driver, or built without CUDA"
        )
    try:
        model = Model(
            options.model,
            n_gpu_layers=0 if options.device == "cpu" else options.n_gpu_layers,
            use_mmap=options.use_mmap,
            on_progress=on_progress,
        )
        if pooling := pooling_of(model, wanted=options.embedding):
            return _load_embedding(model, options, pooling)
        n_ctx = options.n_ctx or min(model.n_ctx_train, DEFAULT_MAX_N_CTX)
        n_ctx_total = max(options.n_ctx_total or n_ctx * options.n_parallel, n_ctx)
        n_score_rows = max(min(_SCORE_BYTES // (4 * model.n_vocab), _MAX_SCORE_ROWS), 1)
        n_draft_rows = _n_draft_rows(options, model)
        context = Context(model, _context_options(options, n_ctx, n_ctx_total, n_score_rows, n_draft_rows))
        encoder = _encoder(options, model)
    except NativeError as error:
        raise _explain(error) from error
    return Loaded(model, context, n_ctx, n_ctx_total, n_score_rows, encoder, n_draft_rows)


def _n_draft_rows(options: WorkerOptions, model: Model) -> int:
    """None where a false guess cannot be taken back: a recurrent state keeps no past, and a sliding window may have
    moved on when a batch is computed in parts."""
    moves_on = model.n_swa > 0 and options.n_ubatch < options.n_batch
    if options.speculation == "off" or model.has_recurrent_state or moves_on:
        return 0
    return max_draft_rows(n_parallel=options.n_parallel, n_batch=options.n_batch, n_vocab=model.n_vocab)


def _encoder(options: WorkerOptions, model: Model) -> ImageEncoder | None:
    if options.mmproj is None:
        return None
    return ImageEncoder(
        options.mmproj,
        model,
        n_threads=options.n_threads,
        use_gpu=options.device != "cpu",
        n_ubatch=most_image_tokens(options),
    )


def most_image_tokens(options: WorkerOptions) -> int:
    """Of an image whose tokens all have to be computed at once."""
    return min(options.n_ubatch, options.n_batch)


def _load_embedding(model: Model, options: WorkerOptions, pooling: str) -> Loaded:
    """A text is never longer than the positions that the model has learnt."""
    n_ctx = min(options.n_ctx or DEFAULT_MAX_N_CTX, model.n_ctx_train)
    n_tokens = max(n_ctx, options.n_batch)
    wanted = EmbeddingOptions(
        n_tokens=n_tokens,
        n_texts=min(_MAX_TEXTS_IN_BATCH, options.n_batch),
        pooling=pooling,
        n_step=options.n_batch if pooling == "last" and is_causal(model) else None,
        n_threads=options.n_threads,
        flash_attn=options.flash_attn,
    )
    return Loaded(model, EmbeddingContext(model, wanted), n_ctx, n_tokens)


def _context_options(
    options: WorkerOptions, n_ctx: int, n_ctx_total: int, n_score_rows: int, n_draft_rows: int
) -> ContextOptions:
    """A share of its own for each sequence computes fastest; with fewer cells than that, all share one pool."""
    return ContextOptions(
        n_ctx_total=n_ctx_total,
        n_parallel=options.n_parallel,
        unified=n_ctx_total < n_ctx * options.n_parallel,
        n_batch=options.n_batch,
        n_ubatch=options.n_ubatch,
        n_threads=options.n_threads,
        flash_attn=options.flash_attn,
        cache_type_k=options.cache_type_k,
        cache_type_v=options.cache_type_v,
        n_score_rows=n_score_rows,
        n_draft_rows=n_draft_rows,
    )


def check_file(path: Path) -> None:
    """What can be known of a model file before llama.cpp opens it."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError:
        raise EngineFailure(FailureReason.WEIGHTS_MISSING, f"there is no file {path}") from None
    except OSError as error:
        raise EngineFailure(
            FailureReason.WEIGHTS_MISSING, f"{path} cannot be read: {error.strerror or error}"
        ) from error
    if len(head) < 8 or head[:4] != b"GGUF":
        raise EngineFailure(FailureReason.WEIGHTS_DAMAGED, f"{path.name} is not a GGUF file")
    (version,) = struct.unpack("<I", head[4:])
    if version not in _GGUF_VERSIONS:
        raise EngineFailure(FailureReason.UNSUPPORTED_MODEL, f"{path.name} is a GGUF of version {version}")


def _explain(error: NativeError) -> EngineFailure:
    said = "\n".join(error.log)
    reason = next((reason for reason, pattern in _REASONS if pattern.search(said)), FailureReason.UNSUPPORTED_MODEL)
    telling = [line for line in error.log if "error" in line.lower() or "fail" in line.lower()]
    line = telling[0] if telling else (error.log[-1] if error.log else "")
    return EngineFailure(reason, f"{error}: {line}" if line else str(error), log_tail=error.log)
