"""llama.cpp behind Python types: the one package that imports `llama_cpp`.

Every non-zero return of a C function becomes an exception here. Long calls (`load`, `decode`, `tokenize`) release the
interpreter lock; the short ones of the step go through `PYFUNCTYPE`, which keeps it and costs half as much.

A `Context` belongs to the one thread that steps it. A `Model`'s vocabulary may be read from any thread.
"""

import os

# OpenMP's threads spin at the end of each of a step's thousand operations. For as long as they do by default, two
# workers on the same cores, or a worker beside anything busy, hardly move (measured on 2 cores: 35 tokens/s each, or
# less than 1); so short a spin costs a lone worker nothing that could be measured, and they share fairly (75 each).
# libgomp reads it when it is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from backends.llamacpp.native.context import Context, ContextOptions
from backends.llamacpp.native.embedding import EmbeddingContext, EmbeddingOptions
from backends.llamacpp.native.library import DecodeError, NativeError, on_abort, supports_gpu_offload
from backends.llamacpp.native.model import Model
from backends.llamacpp.native.vision import ImageEncoder, PreparedImage

__all__ = [
    "Context",
    "ContextOptions",
    "DecodeError",
    "EmbeddingContext",
    "EmbeddingOptions",
    "ImageEncoder",
    "Model",
    "NativeError",
    "PreparedImage",
    "on_abort",
    "supports_gpu_offload",
]
