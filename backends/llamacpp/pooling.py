"""Whether a model makes vectors of texts instead of texts, and how: what its GGUF says, and what the operator does."""

from __future__ import annotations

from typing import Final

from backends.llamacpp.native import Model, NativeError

_NAMES: Final = {"0": "none", "1": "mean", "2": "cls", "3": "last", "4": "rank"}


def pooling_of(model: Model, *, wanted: bool) -> str | None:
    """`mean`, `cls` or `last`; None for a model that generates. Raises `NativeError` for one that only ranks.

    A model is one for vectors if its GGUF names a pooling type, if its tokens see those after them, or if that is
    `wanted`. Where none is named, the last token stands for a text it alone has seen whole, else the mean of all.
    """
    named = _NAMES.get(model.metadata("{arch}.pooling_type") or "", "none")
    if named == "rank":
        why = "unsupported: the model ranks texts, it neither generates nor embeds them"
        raise NativeError(why, (why,))
    if named != "none":
        return named
    if not is_causal(model):
        return "mean"
    return "last" if wanted else None


def is_causal(model: Model) -> bool:
    """Whether a token sees only those before it."""
    return model.has_decoder and model.metadata("{arch}.attention.causal") != "false"
