"""Makes `weights/speed_constants.toml` and `docs/planner-speed.md` again: `python -m tests.weights.speed_fit`.

The sum of relative deviations is made least, not that of their squares: figures from the wild have gross errors among
them, and a constant should not bend to one. A group's error bar is what nine of ten of its figures keep to when their
own card is left out of the fit, 10 % at least; where there is one card only, nothing can be left out: 50 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean, median
from typing import Final

import numpy as np
import numpy.typing as npt
import tomli_w

from tests.weights import speed_table
from tests.weights.published_speed import Figure, cpu_figures, figures, vllm_figures
from weights.speed_model import DECODE_GROUPS, PROMPT_GROUPS, constants, decode_terms, prompt_terms, seconds

Array = npt.NDArray[np.float64]
Terms = Mapping[str, float]

_ROOT: Final = Path(__file__).parents[2]
CONSTANTS: Final = _ROOT / "weights" / "speed_constants.toml"
DOCUMENT: Final = _ROOT / "docs" / "planner-speed.md"
_HEAD: Final = "# Made by `python -m tests.weights.speed_fit`; docs/planner-speed.md says what it is worth.\n\n"

_LEAST_ERROR: Final = 0.1
_ONE_CARD_ERROR: Final = 0.5
_CPU_ERROR: Final = 0.6
_VLLM_DECODE_ERROR: Final = 0.5  # from a single figure
_KEPT_TO: Final = 0.9
_N_ROUNDS: Final = 200
_SMALLEST_DEVIATION: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Sample:
    """A figure as an equation: what its terms add up to, times their constants, is `seconds`."""

    card: str
    group: str
    terms: Terms
    seconds: float
    is_of_experts: bool


def fit() -> dict[str, dict[str, float]]:
    """The content of the constants' file."""
    fitted = [figure for figure in figures() if figure.is_fitted]
    decode, decode_error = _fitted([_decode_sample(figure) for figure in fitted if figure.decode])
    prompt, prompt_error = _fitted([_prompt_sample(figure) for figure in fitted if figure.prompt])
    cpu = [_decode_sample(figure) for figure in cpu_figures()]
    decode |= least_deviations(cpu)
    prompt["cpu"] = median(sample.seconds / sample.terms["cpu"] for sample in map(_prompt_sample, cpu_figures()))
    decode_error["cpu"] = prompt_error["cpu"] = _CPU_ERROR
    tables = {"decode": decode, "decode_error": decode_error, "prompt": prompt, "prompt_error": prompt_error}
    return {name: _rounded(table) for name, table in {**tables, "vllm": _vllm(decode, prompt)}.items()}


def least_deviations(samples: Sequence[Sample]) -> dict[str, float]:
    """Constants by least absolute relative deviations, as repeatedly reweighted least squares; none is negative."""
    names = sorted({name for sample in samples for name, quantity in sample.terms.items() if quantity})
    matrix: Array = np.array([[sample.terms.get(name, 0.0) / sample.seconds for name in names] for sample in samples])
    weights: Array = np.ones(len(samples))
    solution: Array = np.zeros(len(names))
    for _ in range(_N_ROUNDS):
        solution = np.linalg.lstsq(matrix * weights[:, None], weights, rcond=None)[0]
        weights = 1 / np.sqrt(np.maximum(np.abs(matrix @ solution - 1), _SMALLEST_DEVIATION))
    return {name: max(float(value), 0.0) for name, value in zip(names, solution, strict=True)}


def _fitted(samples: Sequence[Sample]) -> tuple[dict[str, float], dict[str, float]]:
    deviations = _deviations_left_out(samples)
    errors = {
        group: _error(samples, deviations, lambda sample, group=group: sample.group == group)
        for group in sorted({sample.group for sample in samples})
    }
    errors["experts"] = _error(samples, deviations, lambda sample: sample.is_of_experts, alone=True)
    return least_deviations(samples), errors


def _deviations_left_out(samples: Sequence[Sample]) -> dict[int, float]:
    """By the sample's place: relative, of the prediction from the figures of all other cards."""
    found = {}
    for card in sorted({sample.card for sample in samples}):
        factors = least_deviations([sample for sample in samples if sample.card != card])
        for place, sample in enumerate(samples):
            if sample.card == card and all(name in factors for name, quantity in sample.terms.items() if quantity):
                found[place] = abs(sample.seconds / seconds(sample.terms, factors) - 1)
    return found


def _error(
    samples: Sequence[Sample],
    deviations: Mapping[int, float],
    belongs: Callable[[Sample], bool],
    *,
    alone: bool = False,
) -> float:
    """Figures of experts count for experts alone: few are known, and they deviate more."""
    own = [
        deviation
        for place, deviation in deviations.items()
        if belongs(samples[place]) and (alone or not samples[place].is_of_experts)
    ]
    return round(max(float(np.quantile(own, _KEPT_TO)), _LEAST_ERROR), 2) if own else _ONE_CARD_ERROR


def _decode_sample(figure: Figure) -> Sample:
    assert figure.decode
    group = DECODE_GROUPS[figure.card.family]
    return _sample(figure, group, decode_terms(figure.work, figure.card), figure.decode)


def _prompt_sample(figure: Figure) -> Sample:
    assert figure.prompt
    is_in_floats = figure.work.float_flops > figure.work.quantized_flops
    group = "floats" if is_in_floats else PROMPT_GROUPS[figure.card.family]
    return _sample(figure, group, prompt_terms(figure.work, figure.card), figure.prompt)


def _sample(figure: Figure, group: str, terms: Terms, tokens_per_s: float) -> Sample:
    return Sample(figure.card.key, group, terms, 1 / tokens_per_s, figure.work.n_expert_bytes > 0)


def _vllm(decode: Terms, prompt: Terms) -> dict[str, float]:
    """vLLM's share of what llama.cpp is predicted to do."""
    prompts = [1 / sample.seconds * seconds(sample.terms, prompt) for sample in _samples(_prompt_sample, "prompt")]
    decodes = [1 / sample.seconds * seconds(sample.terms, decode) for sample in _samples(_decode_sample, "decode")]
    mean = geometric_mean(prompts)
    return {
        "prompt": mean,
        "prompt_error": round(max(abs(share / mean - 1) for share in prompts), 2),
        "decode": geometric_mean(decodes),
        "decode_error": _VLLM_DECODE_ERROR,
    }


def _samples(as_sample: Callable[[Figure], Sample], kind: str) -> Iterable[Sample]:
    return [as_sample(figure) for figure in vllm_figures() if getattr(figure, kind)]


def _rounded(table: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in sorted(table.items())}


def main() -> None:
    CONSTANTS.write_text(_HEAD + tomli_w.dumps(fit()))
    constants.cache_clear()
    DOCUMENT.write_text(speed_table.render())


if __name__ == "__main__":
    main()
