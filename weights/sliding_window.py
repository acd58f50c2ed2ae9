"""Which layers see only the last tokens, by architecture: llama.cpp's rules (`src/models/*.cpp`, `load_arch_hparams`).

A file may list the layers under `attention.sliding_window_pattern`, or give a period there; else the architecture's own
period holds. An architecture that is not named here has no such layers, whatever its file says (Qwen 2, Phi 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from weights.gguf_header import DamagedHeader
from weights.gguf_keys import Keys

_PATTERN: Final = "attention.sliding_window_pattern"


@dataclass(frozen=True, slots=True)
class _Rule:
    """One layer in `period` sees everything: the last of them, or with `full_first` the first; with 0 none does.

    Without `period` the file must list the layers, without `default_window` it must say how wide the window is.
    `fixed_window` holds where it says anything but zero. `n_layers` is the one depth the rule is for.
    """

    period: int | None = None
    full_first: bool = False
    default_window: int | None = None
    fixed_window: int | None = None
    n_layers: int | None = None


_RULES: Final = {
    "afmoe": _Rule(4, default_window=0),
    "cohere2": _Rule(4),
    "cohere2moe": _Rule(4, full_first=True),
    "deepseek4": _Rule(0),
    "dflash": _Rule(default_window=0),
    "dots3note": _Rule(),
    "exaone-moe": _Rule(4),
    "exaone4": _Rule(4, default_window=4096, n_layers=64),
    "gemma-embedding": _Rule(6),
    "gemma2": _Rule(2, default_window=4096),
    "gemma3": _Rule(6, default_window=0),
    "gemma3n": _Rule(5),
    "gemma4": _Rule(),
    "gemma4-assistant": _Rule(),
    "gpt-oss": _Rule(2),
    "granite_swa": _Rule(),
    "laguna": _Rule(4, full_first=True, default_window=0),
    "llama4": _Rule(4, default_window=8192, fixed_window=8192),
    "maple": _Rule(),
    "mellum": _Rule(4, default_window=0),
    "mimo2": _Rule(),
    "modern-bert": _Rule(3, full_first=True, default_window=0),
    "muse-glimmer": _Rule(4),
    "olmo2": _Rule(4, default_window=0),
    "plamo3": _Rule(8, default_window=0),
    "smallthinker": _Rule(4, full_first=True, default_window=0, fixed_window=4096),
    "spark2_5": _Rule(),
    "step35": _Rule(),
}


def sliding_layers(keys: Keys, n_layers: int, n_next_token_layers: int) -> tuple[int | None, tuple[bool, ...]]:
    """The window, or None, and for each layer whether it sees no further. Raises `DamagedHeader`.

    The last `n_next_token_layers` guess ahead; they have a window only where the file lists them.
    """
    rule = _RULES.get(keys.architecture)
    none = (None, (False,) * n_layers)
    n_trunk = n_layers - n_next_token_layers
    if rule is None or (rule.n_layers is not None and rule.n_layers != n_trunk):
        return none
    window = keys.number("attention.sliding_window", rule.default_window)
    if window == 0:
        return none
    is_sliding = _listed(keys, n_layers) or _repeated(keys, rule, n_trunk) + (False,) * n_next_token_layers
    return (rule.fixed_window or window, is_sliding) if any(is_sliding) else none


def _listed(keys: Keys, n_layers: int) -> tuple[bool, ...] | None:
    """A list that is too short leaves the other layers without a window, as llama.cpp has it."""
    listed = keys.get(_PATTERN)
    if not isinstance(listed, tuple):
        return None
    return tuple(map(bool, listed[:n_layers])) + (False,) * (n_layers - len(listed))


def _repeated(keys: Keys, rule: _Rule, n_layers: int) -> tuple[bool, ...]:
    if rule.period is None:
        raise DamagedHeader(f"it does not list {keys.architecture}.{_PATTERN}")
    period = keys.number(_PATTERN, rule.period)
    if period == 0:
        return (True,) * n_layers
    full = 0 if rule.full_first else period - 1
    return tuple(layer % period != full for layer in range(n_layers))
