"""Settings under which a model that does not fit would: each is planned, and only what fits is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, Protocol

from weights.load_settings import LoadSettings

_GIB: Final = 1 << 30
_SPARE_BYTES: Final = 128 << 20
"""What advice leaves free: a plan can be wrong by so much."""
_CONTEXT_STEP: Final = 256
_LEAST_CONTEXT: Final = 1024
_SMALLER_TYPE: Final = "q8_0"
_LARGER_TYPES: Final = {"f32", "f16", "bf16"}


class Planned(Protocol):
    """Of a plan, what advice is about."""

    @property
    def gpu_bytes(self) -> int: ...
    @property
    def margin_bytes(self) -> int | None: ...


Planner = Callable[[LoadSettings], Planned]


def advise(settings: LoadSettings, n_layers: int, plan: Planner) -> tuple[str, ...]:
    """The mildest change of each kind, and some of two kinds; where nothing helps, that."""
    found = [(words, plan(changed)) for words, changed in _changes(settings, n_layers, plan)]
    said = [_say(words, planned) for words, planned in found if _fits_well(planned)]
    return tuple(said) or (
        "no context, KV type or number of layers makes it fit: take a smaller model or quantisation",
    )


def _changes(settings: LoadSettings, n_layers: int, plan: Planner) -> Iterator[tuple[str, LoadSettings]]:
    smaller = replace(settings, type_k=_SMALLER_TYPE, type_v=_SMALLER_TYPE)
    can_shrink = settings.flash_attn != "off" and {settings.type_k, settings.type_v} & _LARGER_TYPES
    if can_shrink and _is_possible(smaller, plan):
        yield "cache_type_k and cache_type_v = q8_0", smaller
    else:
        can_shrink = False
    if changed := _fewer_sequences(settings, plan):
        yield f"{changed.n_seqs} {'sequences' if changed.n_seqs > 1 else 'sequence'} at once", changed
    if changed := _shorter_context(settings, plan):
        yield f"n_ctx = {changed.n_ctx}", changed
    if changed := _fewer_layers(settings, n_layers, plan):
        yield f"n_gpu_layers = {changed.n_gpu_layers} of {n_layers + 1} (slower: the others on the CPU)", changed
    if can_shrink and not _fits_well(plan(smaller)):
        if changed := _fewer_sequences(smaller, plan):
            yield f"q8_0 and {changed.n_seqs} at once", changed
        if changed := _shorter_context(smaller, plan):
            yield f"q8_0 and n_ctx = {changed.n_ctx}", changed


def _is_possible(settings: LoadSettings, plan: Planner) -> bool:
    try:
        plan(settings)
    except ValueError:
        return False
    return True


def _fewer_sequences(settings: LoadSettings, plan: Planner) -> LoadSettings | None:
    """As many as fit; cells shared by all are no fewer then, so that only shares of one's own count."""
    if settings.n_ctx_total is not None:
        return None
    choices = [replace(settings, n_seqs=n) for n in range(1, settings.n_seqs)]
    return _largest_fitting(choices, plan)


def _shorter_context(settings: LoadSettings, plan: Planner) -> LoadSettings | None:
    """Cells shared by all shrink in proportion."""
    contexts = range(_LEAST_CONTEXT, settings.n_ctx, _CONTEXT_STEP)
    total = settings.n_ctx_total
    choices = [
        replace(settings, n_ctx=n, n_ctx_total=None if total is None else total * n // settings.n_ctx) for n in contexts
    ]
    return _largest_fitting(choices, plan)


def _fewer_layers(settings: LoadSettings, n_layers: int, plan: Planner) -> LoadSettings | None:
    on_gpu = n_layers + 1 if settings.n_gpu_layers < 0 else min(settings.n_gpu_layers, n_layers + 1)
    return _largest_fitting([replace(settings, n_gpu_layers=n) for n in range(on_gpu)], plan)


def _largest_fitting(choices: Sequence[LoadSettings], plan: Planner) -> LoadSettings | None:
    """The last that fits, of choices that take more and more."""
    low, high = 0, len(choices)
    while low < high:
        middle = (low + high) // 2
        if _fits_well(plan(choices[middle])):
            low = middle + 1
        else:
            high = middle
    return choices[low - 1] if low else None


def _fits_well(planned: Planned) -> bool:
    return planned.margin_bytes is None or planned.margin_bytes >= _SPARE_BYTES


def _say(words: str, planned: Planned) -> str:
    margin = planned.margin_bytes or 0
    return f"{words}: {planned.gpu_bytes / _GIB:.2f} GiB, {margin / _GIB:.2f} GiB to spare"
