"""Engines as candidates for a service's chain: what results tell of each, and whether they can be judged together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.records.record import Report, Run, Scalar, TargetRecord
from bench.records.redaction import url_without_secrets
from bench.records.rows import Row, error_kinds, n_errors, printable, rows, values

_KINDS: Final = {"vllm": "vllm", "llama.cpp": "llamacpp", "llama-server": "llama-server"}
_OPENAI: Final = "openai"
_PASTED: Final = frozenset({
    "cache_type_k", "cache_type_v", "cache_ram_mib", "cuda_device", "device", "dtype", "enforce_eager", "flash_attn",
    "gpu_memory_utilization", "hf_config_path", "images_per_prompt", "kind", "kv_cache_dtype", "max_num_seqs", "mmproj",
    "model", "n_batch", "n_ctx_total", "n_gpu_layers", "n_parallel", "n_threads", "n_ubatch", "quantization",
    "reasoning_format", "reasoning_parser", "speculation", "tokenizer", "tool_call_parser", "use_mmap", "weights",
})  # fmt: skip
"""Settings that are proposed. What names a program, its arguments or a key is the operator's to write, not a file's."""


class RefusedError(Exception):
    """The results cannot decide an order; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """`runs` are by row, over all results."""

    target: TargetRecord
    runs: Mapping[Row, tuple[Run, ...]]
    memory_limit_bytes: float | None = None

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def all_runs(self) -> list[Run]:
        return [run for of_row in self.runs.values() for run in of_row]

    @property
    def n_errors(self) -> int:
        return n_errors(self.all_runs)

    @property
    def error_kinds(self) -> Mapping[str, int]:
        return error_kinds(self.all_runs)

    @property
    def gpu_peak_bytes(self) -> float | None:
        return max(values(self.all_runs, "gpu_peak_bytes"), default=None)

    @property
    def fits(self) -> bool:
        """True also where nobody told what it needs or what there is."""
        peak, limit = self.gpu_peak_bytes, self.memory_limit_bytes
        return self.target.card is None or peak is None or limit is None or peak <= limit

    @property
    def table(self) -> dict[str, Scalar]:
        """For `[[engines]]`; a kind alone where the result says no more."""
        table = {"kind": _KINDS.get(self.target.engine, _OPENAI), **self.target.engine_table}
        kept = {name: value for name, value in table.items() if name in _PASTED}
        if kept["kind"] == _OPENAI:
            kept["url"] = url_without_secrets(str(table.get("url", self.target.url)))
        if kept["kind"] == "llamacpp":
            kept.setdefault("device", "cpu" if self.target.card is None else "cuda")
        return {name: printable(value) if isinstance(value, str) else value for name, value in kept.items()}


def candidates(
    reports: Sequence[Report], *, model: str | None = None, names: Sequence[str] = (), memory_bytes: float | None = None
) -> tuple[list[Candidate], list[str]]:
    """Those engines, and in words what was left out. `memory_bytes` stands for the card's own memory.

    Raises `RefusedError` where the results are of different models, cards, or machines without a card.
    """
    found: dict[str, TargetRecord] = {}
    runs: dict[str, dict[Row, list[Run]]] = {}
    left_out: dict[str, str] = {}
    for report in reports:
        of_report = rows(report)
        for target in report.targets:
            if why := _why_not(target, model, names):
                left_out[target.name] = why
                continue
            found[target.name] = _one(found.get(target.name), target)
            for row, of_row in of_report.items():
                runs.setdefault(target.name, {}).setdefault(row, []).extend(of_row.get(target.name, ()))
    _refuse_mixtures(list(found.values()), reports)
    told = [
        Candidate(
            target,
            {row: tuple(of_row) for row, of_row in runs.get(name, {}).items() if of_row},
            memory_bytes or target.card_memory_bytes,
        )
        for name, target in found.items()
    ]
    without_runs = {of.target.name: "it was not measured" for of in told if not of.runs}
    words = [f"{printable(name)} is left out: {why}." for name, why in {**left_out, **without_runs}.items()]
    return [of for of in told if of.runs], words


def _why_not(target: TargetRecord, model: str | None, names: Sequence[str]) -> str | None:
    if names and target.name not in names:
        return "it was not named"
    if model is not None and model_name(target.model) != model_name(model) and not (names and not target.model):
        return f"it serves {printable(target.model)}" if target.model else "it never told its model"
    kind = target.engine_table.get("kind")
    if kind is not None and kind not in {*_KINDS.values(), _OPENAI}:
        return f"{printable(str(kind))} is no kind of engine"
    if kind is None and target.engine not in _KINDS:
        return f"{printable(target.engine)} is no engine of a service"
    return None


def _one(known: TargetRecord | None, target: TargetRecord) -> TargetRecord:
    """What is known of a target that two results have. Raises `RefusedError` unless they mean the same by its name."""
    if known is None or not known.model:
        return target
    if target.model and dict(known.engine_table) != dict(target.engine_table):
        raise RefusedError(f"the results mean different settings by {target.name!r}: give one of them")
    if target.model and (known.model, known.card) != (target.model, target.card):
        raise RefusedError(f"{target.name!r} is on another card, or of another model, in each of the results")
    return known


def _refuse_mixtures(found: Sequence[TargetRecord], reports: Sequence[Report]) -> None:
    models = _models(found)
    if len(models) > 1:
        names = [sorted(of)[0] for of in models]
        raise RefusedError(f"the results are of different models ({_list(names)}): name one with --model")
    cards = sorted({target.card for target in found if target.card})
    if len(cards) > 1:
        raise RefusedError(
            f"the results are of different cards ({_list(cards)}): what is best on one is not on another"
        )
    processors = sorted({report.machine.cpu for report in reports})
    if not cards and len(processors) > 1:
        raise RefusedError(f"the results are of different machines ({_list(processors)})")


def _models(found: Sequence[TargetRecord]) -> list[set[str]]:
    """Names of each model. Servers call one file differently: a common hash, or file name, makes it the same."""
    groups: list[tuple[set[str], set[str]]] = []
    for target in found:
        if not target.model:
            continue
        names, marks = (
            {target.model},
            {model_name(target.model), *(file.sha256 for file in target.files if file.sha256)},
        )
        same = [group for group in groups if group[1] & marks]
        groups = [group for group in groups if group not in same]
        groups.append((names.union(*(group[0] for group in same)), marks.union(*(group[1] for group in same))))
    return [names for names, _ in groups]


def model_name(told: str) -> str:
    """Without the folder of a GGUF file and its ending; letters of either case are the same."""
    return re.sub(r"\.gguf$", "", re.sub(r"^.*/(?=[^/]*\.gguf$)", "", told.casefold()))


def _list(names: Iterable[str]) -> str:
    return ", ".join(printable(name) for name in names)
