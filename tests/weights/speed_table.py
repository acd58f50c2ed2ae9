"""Predicted beside published speeds, as the document docs/planner-speed.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.weights.published_speed import Figure, cpu_figures, figures, made_model, sources, vllm_figures
from weights.cards import CARDS, Card
from weights.speed_model import constants
from weights.speed_plan import SpeedPlan, decode_tokens_per_s, plan_speed, plan_vllm_speed, prompt_tokens_per_s

Predict = Callable[[Figure], tuple[float, float]]
"""Tokens/s of decoding and of the prompt."""

_HEAD: Final = """\
# How fast it will be: predictions beside published figures

`weights/speed_plan.py` says before a model is loaded how many tokens a second llama.cpp will make and read with it
on a card. This page is made by `python -m tests.weights.speed_fit`, together with the constants that the
predictions rest on; a test holds both to the figures.

**The model.** A token takes a sum of parts (`weights/speed_model.py`).

- Decoding: the bytes of weights it reads, counted tensor by tensor (rows of embeddings instead of tables, only the
  experts used, no matrices of layers that share the keys of others), and the bytes of keys and values it looks back
  on (windows counted), each over the card's memory bandwidth; and a fixed time for every tensor.
- A prompt: its operations with matrices over the INT8 rate of the tensor cores, for llama.cpp multiplies quantised
  matrices so; with matrices in floats, and those of attention, over their FP16 rate.

**The constants** are fitted on published figures by least absolute deviations. A rule said before which figures are
held out: everything on the two cards this project is for, everything that its list of peers gives, everything on an
RTX 4060 Ti, and every figure of Gemma 4. The form of the model (a time for each tensor instead of each layer, the
groups of cards) was chosen with all figures in sight; the constants never saw those held out.
"""

_READING: Final = """
## Reading the tables

- Errors are relative. Nine of ten figures of a card's group keep to them when their own card is left out of the
  fit. Cards with HBM (A100, H100, H200) have 50 %: one of their kind is among the figures, and no H100.
- Published figures of one card and one model differ by 20 % between builds of llama.cpp, hosts and drivers: Gemma 4
  E4B on an RTX 3090 is published with 102 to 148 tokens/s. A desktop on the card costs an RTX 3060 a tenth (67
  instead of 76).
- Figures of the scoreboard (discussion 15013) are without Flash Attention, which the server uses where it can. It
  is some percent faster, and more with long contexts.
- Prompts of models with experts are the weakest part. Of one model half is reached of what fits another, because
  the tokens of a step are spread over many experts. Their error says so.
- The RTX 5090's 142 tokens/s with Qwen3-30B-A3B cannot be met: the same source gives an RTX 4090 140, with little
  more than half the bandwidth.
- Models of which a token reads less than 1 GB are smaller than all in the tables: 50 % at least.
- Cards that may use little power (L4, T4, limits set by hand) read prompts slower than predicted.
- Not planned: layers left on the host, several cards, several requests at once, guessing ahead. The state that
  recurrent layers read and write is left out.
"""

_VLLM: Final = """
## vLLM with GGUF files

vLLM's plugin for GGUF files multiplies with kernels that were taken over from llama.cpp in January 2024 (vllm issue
1002), before llama.cpp had any for tensor cores (its pull request 7676): vllm issue 35987 measured 8.7 and 9.1 times
the time to the first token that the same model takes in AWQ. A plan for vLLM is what llama.cpp is predicted to do,
times {prompt:.2f} for prompts (± {prompt_error:.0%}, from three figures) and times {decode:.2f} for decoding
(± {decode_error:.0%}, from one figure, of a fork with the same kernels). No figure is known for vLLM with
bitsandbytes on these cards, and nothing is predicted for it. Measure before believing in an order.
"""

_CPU: Final = """
## Processors

`weights/cpu_probe.py` measures in a third of a second what a machine reads and multiplies; the constants relate
llama.cpp to that. They stand on four figures of small models on one kind of processor ({bandwidth:.0f} GB/s and
{gflops:.0f} GFLOP/s of one thread), taken while it had other work: take a prediction for an order of magnitude, ±
{error:.0%}. Types that llama.cpp does not repack for a processor, such as the Q4_1 of SmolLM2, read prompts at half
of that and less.
"""


@dataclass(frozen=True, slots=True)
class Comparison:
    kind: str
    figure: Figure
    published: float
    predicted: float

    @property
    def deviation(self) -> float:
        """Of the prediction, relative to what was published."""
        return self.predicted / self.published - 1


def comparisons(given: Iterable[Figure], predict: Predict | None = None) -> list[Comparison]:
    """One for each published number."""
    found = []
    for figure in given:
        decode, prompt = (predict or _by_llama_cpp)(figure)
        for kind, published, predicted in (("decode", figure.decode, decode), ("prompt", figure.prompt, prompt)):
            if published:
                found.append(Comparison(kind, figure, published, predicted))
    return found


def render() -> str:
    held_out = [figure for figure in figures() if not figure.is_fitted]
    fitted = [figure for figure in figures() if figure.is_fitted]
    given = constants()
    cpu = cpu_figures()
    return "\n".join(
        [
            _HEAD,
            "## Held out: not used for fitting\n",
            "Figures in brackets are told loosely (not CUDA, or the quant is not stated): nothing is held to them.\n",
            _table(comparisons(held_out)),
            "\n## The two cards and their models\n",
            _plans(),
            "\n## Used for fitting\n",
            _table(comparisons(fitted)),
            _READING,
            _VLLM.format(**given.vllm).strip("\n") + "\n",
            _table(comparisons(vllm_figures(), _by_vllm)),
            _CPU.format(
                bandwidth=cpu[0].card.bandwidth_bytes_per_s / 1e9,
                gflops=cpu[0].card.tensor_flops_per_s / 1e9,
                error=given.decode_error["cpu"],
            ),
            _table(comparisons(cpu)),
            "\n## Sources\n",
            *(f"{number}. {source}" for number, source in enumerate(_sources(), 1)),
            "",
        ]
    )


def _by_llama_cpp(figure: Figure) -> tuple[float, float]:
    return (
        decode_tokens_per_s(figure.work, figure.card),
        prompt_tokens_per_s(figure.work, figure.card, figure.n_prompt),
    )


def _by_vllm(figure: Figure) -> tuple[float, float]:
    decode, prompt = _by_llama_cpp(figure)
    return decode * constants().vllm["decode"], prompt * constants().vllm["prompt"]


def _table(rows: Sequence[Comparison]) -> str:
    numbers = {source: number for number, source in enumerate(_sources(), 1)}
    lines = ["| card | model | what | published | predicted | deviation | source |", "|---|---|---|--:|--:|--:|--:|"]
    for row in rows:
        figure = row.figure
        name = "this kind of processor" if figure.card.is_cpu else figure.card.name.removeprefix("NVIDIA ")
        published = f"({row.published:,.1f})" if figure.is_told_loosely else f"{row.published:,.1f}"
        cells = [_card_name(figure.card, name), f"{figure.model} {figure.mix}", _what(row), published]
        cells += [f"{row.predicted:,.1f}", f"{row.deviation:+.0%}", str(numbers[figure.source])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _card_name(card: Card, name: str) -> str:
    gib = round(card.memory_bytes / (1 << 30))
    return name if card.is_cpu else f"{name.removeprefix('GeForce ')} {gib} GB"


def _what(row: Comparison) -> str:
    figure = row.figure
    if row.kind == "decode":
        return f"decode at {figure.context:,}"
    return f"prompt of {figure.n_prompt:,}" + (f" after {figure.n_before:,}" if figure.n_before else "")


def _plans() -> str:
    """What the planner says of the presets' models."""
    lines = ["| card | model | context | engine | decode, tok/s | prompt, tok/s |", "|---|---|--:|---|--:|--:|"]
    for key, name, mix, context in (
        ("rtx-5060-ti-16gb", "qwen3-14b", "Q4_K_M", 1024),
        ("rtx-5060-ti-16gb", "qwen3-14b", "Q4_K_M", 14384),
        ("rtx-3060-12gb", "gemma-4-e4b", "Q4_K_M", 1024),
        ("rtx-3060-12gb", "gemma-4-e4b", "Q4_K_M", 8192),
        ("rtx-3060-12gb", "qwen2.5-7b", "Q4_K_M", 1024),
    ):
        card, model = CARDS[key], made_model(name, mix)
        plans = {"llama.cpp": plan_speed(model, card, context=context)}
        vllm = plan_vllm_speed(model, card, context=context) if name == "qwen3-14b" else None
        for engine, plan in ({**plans, "vLLM (GGUF)": vllm} if vllm else plans).items():
            cells = [_card_name(card, card.name.removeprefix("NVIDIA ")), f"{name} {mix}", f"{context:,}", engine]
            lines.append(f"| {' | '.join([*cells, *_with_errors(plan)])} |")
    return "\n".join(lines)


def _with_errors(plan: SpeedPlan) -> list[str]:
    return [
        f"{plan.decode_tokens_per_s:,.0f} ± {plan.decode_relative_error:.0%}",
        f"{plan.prompt_tokens_per_s:,.0f} ± {plan.prompt_relative_error:.0%}",
    ]


def _sources() -> list[str]:
    return sources([*figures(), *vllm_figures(), *cpu_figures()])
