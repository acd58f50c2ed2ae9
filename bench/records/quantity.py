"""What a figure's name says: its label, its unit, how it is written, and whether more of it is better."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, Literal

Better = Literal["higher", "lower"]

_LABELS: Final = {
    "cached_tok": "prompt tokens from the cache",
    "count_mismatches": "answers whose token counts cannot be right",
    "decode_share": "share of steps in llama_decode",
    "decode_tok_per_s": "output tokens of one stream",
    "energy_j": "energy",
    "energy_j_per_output_tok": "energy per output token",
    "errors": "requests that failed",
    "goodput_per_s": "goodput",
    "goodput_share": "share of requests within the latency target",
    "gpu_peak_bytes": "GPU memory, peak",
    "late_sends": "requests sent late by the client",
    "output_tok": "output tokens in all",
    "output_tok_per_s": "output tokens",
    "power_w_mean": "power, mean",
    "prefill_tok_per_s": "prompt tokens of one stream until its first token",
    "prompt_tok": "prompt tokens in all",
    "prompt_tok_per_s": "prompt tokens",
    "pss_bytes": "memory of the processes, shared pages counted once",
    "requests": "requests",
    "requests_per_s": "requests",
    "rss_loaded_bytes": "memory of the processes, loaded",
    "rss_peak_bytes": "memory of the processes, peak",
    "total_tok_per_s": "prompt and output tokens",
    "wall_s": "time it took",
}
_TIMES: Final = {
    "content_ttft_s": "time to the first token that is no thought",
    "e2e_s": "time to the last token",
    "gap_s": "gap between tokens",
    "late_s": "lateness of the client's requests",
    "tpot_s": "time per output token",
    "ttft_s": "time to first token",
}
_UNITS: Final = (
    ("_j_per_output_tok", "J"),
    ("_tok_per_s", "tok/s"),
    ("_per_s", "/s"),
    ("_bytes", "GiB"),
    ("_j", "J"),
    ("_w", "W"),
    ("_w_mean", "W"),
    ("gap_s", "ms"),
    ("tpot_s", "ms"),
    ("_s", "s"),
)
_SCALES: Final = {"GiB": 1 / (1 << 30), "ms": 1000.0}
_LOWER: Final = re.compile(r"errors|count_mismatches|energy_.*|power_.*|.*_bytes|wall_s|late_.*|.*_s")
_HIGHER: Final = re.compile(r".*_per_s|goodput_share|decode_share|cached_tok")
_STATISTIC: Final = re.compile(r"(?P<base>\w+)_(?P<statistic>p\d{1,2}|max|min|mean)")


@dataclass(frozen=True, slots=True)
class Quantity:
    """`unit` is empty for counts and shares; `better` is None where nobody can tell from the figure alone."""

    name: str
    label: str
    unit: str
    better: Better | None

    @property
    def title(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def shown(self, value: float) -> float:
        """In the unit: bytes become GiB, and short times ms."""
        return value * _SCALES.get(self.unit, 1.0)

    def text(self, value: float) -> str:
        """Three figures that count, without the unit."""
        shown = self.shown(value)
        if shown == 0 or (not self.unit and shown.is_integer() and abs(shown) < 1e15):
            return f"{shown:,.0f}"
        digits = 2 - math.floor(math.log10(abs(shown)))
        return f"{shown:,.{max(digits, 0)}f}" if -13 <= digits <= 6 else f"{shown:.2e}"


def quantity(name: str) -> Quantity:
    """Of any figure: one that is not known is called by its name, in the unit that the name ends in."""
    found = None if name in _LABELS else _STATISTIC.fullmatch(name)
    base = found["base"] if found else name
    label = _LABELS.get(base) or _TIMES.get(base) or base.replace("_", " ")
    unit = next((unit for suffix, unit in _UNITS if base.endswith(suffix)), "")
    return Quantity(name, f"{label}, {found['statistic']}" if found else label, unit, _better(base))


def _better(base: str) -> Better | None:
    if _HIGHER.fullmatch(base):
        return "higher"
    return "lower" if _LOWER.fullmatch(base) else None
