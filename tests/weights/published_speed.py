"""Published figures, each with the work of a token of its model on its card; see published_speed.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from tests.weights.real_models import write
from weights.cards import CARDS, Card
from weights.gguf_model import GgufModel, read
from weights.token_work import TokenWork, token_work

_FILE: Final = Path(__file__).with_name("published_speed.toml")


@dataclass(frozen=True, slots=True)
class Figure:
    """Tokens/s of `engine`; `prompt` or `decode` is None where only the other was published."""

    engine: str
    card: Card
    model: str
    mix: str
    work: TokenWork
    n_prompt: int
    n_before: int
    context: int
    prompt: float | None
    decode: float | None
    is_fitted: bool
    is_of_peers: bool
    is_told_loosely: bool
    source: str


def figures() -> list[Figure]:
    """Of llama.cpp on cards."""
    return [
        _figure("llama.cpp", {**group, **entry}, CARDS[entry["card"]])
        for group in _tables()["groups"]
        for entry in group["figures"]
    ]


def vllm_figures() -> list[Figure]:
    return [_figure("vLLM", entry, CARDS[entry["card"]]) for entry in _tables()["vllm"]]


def cpu_figures() -> list[Figure]:
    table = _tables()["cpu"]
    card = replace(
        next(iter(CARDS.values())),
        key="cpu",
        family="cpu",
        compute_capability=None,
        bandwidth_bytes_per_s=table["bandwidth_gb_per_s"] * 1e9,
        tensor_flops_per_s=table["gflops_per_s"] * 1e9,
        int8_ops_per_s=table["gflops_per_s"] * 1e9,
    )
    return [_figure("llama.cpp", {**table, **entry}, card) for entry in table["figures"]]


@cache
def made_model(name: str, mix: str) -> GgufModel:
    with TemporaryDirectory() as folder:
        return read(write(name, mix, Path(folder) / f"{name}.gguf"))


def sources(given: Iterable[Figure]) -> list[str]:
    """Each once, in order."""
    return list(dict.fromkeys(figure.source for figure in given))


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(_FILE.read_text())


def _figure(engine: str, entry: Mapping[str, Any], card: Card) -> Figure:
    n_before, n_prompt, context = entry.get("n_before", 0), entry.get("n_prompt", 512), entry.get("context", 64)
    model = made_model(entry["model"], entry["mix"])
    return Figure(
        engine=engine,
        card=card,
        model=entry["model"],
        mix=entry["mix"],
        work=token_work(model, decode_at=context, prompt_from=n_before, prompt_to=n_before + n_prompt),
        n_prompt=n_prompt,
        n_before=n_before,
        context=context,
        prompt=entry.get("prompt"),
        decode=entry.get("decode"),
        is_fitted=entry.get("used_for", "fitting") == "fitting",
        is_of_peers=entry.get("is_of_peers", False),
        is_told_loosely="told" in entry,
        source=entry["source"],
    )
