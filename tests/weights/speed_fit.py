"""Makes `weights/speed_constants.toml` and `docs/planner-speed.md` again: `python -m tests.weights.speed_fit`.

The sum of relative deviations is made least, not that of their squares: figures from the wild have gross errors among
them, and a constant should not bend to one. A group's error is how far from the prediction, relative to it, nine of ten
of its figures are when their own card is left out of the fit; 10 % at least, and 50 % where there is one card only, so
that nothing can be left out. Figures of models with experts count for experts alone: few are known, and they deviate
more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tomli_w

from tests.weights import speed_table
from tests.weights.published_speed import Figure, cpu_figures, figures, vllm_figures
from weights.speed_model import DECODE_GROUPS, constants, decode_terms, prompt_group, prompt_terms, seconds

Array = npt.NDArray[np.floating[Any]]
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
    """A figure as an equation: the sum of its terms, each times its constant, should be `seconds`."""

    card: str
    group: str
    terms: Terms
    seconds: float


def fit() -> dict[str, dict[str, float]]:
    """The content of the constants' file."""
    fitted = [figure for figure in figures() if figure.is_fitted]
    decode, decode_error = _fitted(_decode_samples(fitted))
    prompt, prompt_error = _fitted(_prompt_samples(fitted))
    decode |= least_deviations(_decode_samples(cpu_figures()))
    prompt["cpu"] = median(sample.seconds / sample.terms["cpu"] for sample in _prompt_samples(cpu_figures()))
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
    cards: dict[str, set[str]] = {}
    for sample in samples:
        cards.setdefault(sample.group, set()).add(sample.card)
    several = {group for group, its in cards.items() if len(its) > 1}
    deviations: dict[str, list[float]] = {group: [] for group in cards}
    for card in {sample.card for sample in samples}:
        factors = least_deviations([it for it in samples if it.card != card or it.group not in several])
        for sample in samples:
            if sample.card == card and sample.group in several:
                deviations[sample.group].append(abs(seconds(sample.terms, factors) / sample.seconds - 1))
    return least_deviations(samples), {group: _error(found) for group, found in deviations.items()}


def _error(deviations: Sequence[float]) -> float:
    return round(max(float(np.quantile(deviations, _KEPT_TO)), _LEAST_ERROR), 2) if deviations else _ONE_CARD_ERROR


def _decode_samples(given: Sequence[Figure]) -> list[Sample]:
    samples = []
    for figure in given:
        if figure.decode:
            group = "experts" if figure.work.n_expert_bytes else DECODE_GROUPS[figure.card.family]
            terms = decode_terms(figure.work, figure.card)
            samples.append(Sample(figure.card.key, group, terms, 1 / figure.decode))
    return samples


def _prompt_samples(given: Sequence[Figure]) -> list[Sample]:
    samples = []
    for figure in given:
        if figure.prompt:
            group = "experts" if figure.work.expert_flops else prompt_group(figure.work, figure.card)
            terms = prompt_terms(figure.work, figure.card)
            name = "attention" if figure.n_before else group
            samples.append(Sample(figure.card.key, name, terms, 1 / figure.prompt))
    return samples


def _vllm(decode: Terms, prompt: Terms) -> dict[str, float]:
    """vLLM's share of what llama.cpp is predicted to do."""
    prompts = [seconds(it.terms, prompt) / it.seconds for it in _prompt_samples(vllm_figures())]
    decodes = [seconds(it.terms, decode) / it.seconds for it in _decode_samples(vllm_figures())]
    mean = geometric_mean(prompts)
    return {
        "prompt": mean,
        "prompt_error": round(max(abs(share / mean - 1) for share in prompts), 2),
        "decode": geometric_mean(decodes),
        "decode_error": _VLLM_DECODE_ERROR,
    }


def _rounded(table: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in sorted(table.items())}


def main() -> None:
    CONSTANTS.write_text(_HEAD + tomli_w.dumps(fit()))
    constants.cache_clear()
    DOCUMENT.write_text(speed_table.render())


if __name__ == "__main__":
    main()
