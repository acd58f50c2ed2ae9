"""A GGUF model described: as JSON of a stable shape, and as lines made of it for people.

Names and templates are somebody else's: what a terminal would act on is replaced before it is printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, Final

from weights.gguf_model import GgufModel

Json = dict[str, Any]
Line = tuple[str, str]

SCHEMA: Final = 1
_POOLING: Final = {1: "mean", 2: "cls", 3: "last", 4: "rank"}  # llama.h's llama_pooling_type


def as_json(model: GgufModel, template: Json | None) -> Json:
    """`template` as `inspect` finds it out. Lists of numbers are per layer."""
    return {
        "schema": SCHEMA,
        "path": str(model.path),
        "splits": [str(path) for path in model.splits],
        "kind": model.kind,
        "architecture": model.architecture,
        "name": model.name,
        "license": _text(model.metadata.get("general.license")),
        "n_bytes": model.n_bytes,
        "n_parameters": model.n_parameters,
        "n_bytes_by_type": model.n_bytes_by_type,
        "n_layers": model.n_layers,
        "n_layers_for_guessing": sum(layer.is_for_guessing for layer in model.layers),
        "n_experts": _number(model.get("expert_count")),
        "n_experts_used": _number(model.get("expert_used_count")),
        "n_embd": model.n_embd,
        "n_heads": model.n_heads,
        "n_kv_heads": model.n_kv_heads,
        "head_dim_k": model.head_dim_k,
        "head_dim_v": model.head_dim_v,
        "has_kv": [layer.has_kv for layer in model.layers],
        "is_recurrent": [layer.is_recurrent for layer in model.layers],
        "is_sliding": model.is_sliding,
        "sliding_window": model.sliding_window,
        "n_kv_shared_layers": model.n_kv_shared_layers,
        "n_ctx_train": model.n_ctx_train,
        "n_vocab": model.n_vocab,
        "tokenizer": asdict(model.tokenizer) if model.tokenizer else None,
        "chat_template": template,
        "per_layer_embeddings": _per_layer_embeddings(model),
        "pooling": _POOLING.get(_number(model.get("pooling_type")) or 0),
        "projector": _projector(model),
    }


def as_lines(said: Json) -> Iterator[Line]:
    """(label, value) of a description."""
    yield "file", printable(said["path"])
    n_files = len(said["splits"])
    yield "size", binary_size(said["n_bytes"]) + (f" in {n_files} files" if n_files > 1 else "")
    yield "name", printable(said["name"] or "not told")
    if said["license"]:
        yield "license", printable(said["license"])
    yield "architecture", said["architecture"] + ("" if said["kind"] == "model" else f", {printable(said['kind'])}")
    yield "parameters", _count(said["n_parameters"])
    yield "weights", _mix(said["n_bytes_by_type"], said["n_parameters"])
    if said["projector"]:
        yield from _projector_lines(said["projector"])
    if said["n_layers"]:
        yield from _layer_lines(said)
    if said["tokenizer"]:
        yield "tokenizer", _tokenizer(said["tokenizer"])
    if said["pooling"]:
        yield "makes vectors", f"pooled as {said['pooling']}"
    if said["kind"] == "model":
        yield "chat template", _template(said["chat_template"])


def printable(text: str, *, n_most: int = 300) -> str:
    return "".join(char if char.isprintable() else "�" for char in text[:n_most])


def binary_size(n_bytes: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:,.0f} {unit}" if unit in ("bytes", "KiB") else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"


def _layer_lines(said: Json) -> Iterator[Line]:
    yield "layers", _layers(said)
    if any(said["n_heads"]):
        kv_heads = runs([n for n, has_kv in zip(said["n_kv_heads"], said["has_kv"], strict=True) if has_kv])
        kept = f", for keys and values {kv_heads}" if kv_heads else ", no cache of keys and values"
        yield "heads", f"{runs(said['n_heads'])}{kept}, {_head_widths(said)}"
    if said["n_experts"]:
        yield "experts", f"{said['n_experts']}, {said['n_experts_used'] or '?'} used for a token"
    yield "embedding", f"{said['n_embd']:,}"
    if per_layer := said["per_layer_embeddings"]:
        yield "for each layer", f"{per_layer['type']}, {binary_size(per_layer['n_bytes'])}: only rows of it are read"
    yield "context", f"{said['n_ctx_train']:,} tokens"
    n_sliding = sum(said["is_sliding"])
    window = f"{said['sliding_window']:,} tokens in {n_sliding} of {said['n_layers']} layers" if n_sliding else "none"
    yield "sliding window", window
    yield "vocabulary", f"{said['n_vocab']:,} tokens"


def _layers(said: Json) -> str:
    remarks = {
        "with a state of fixed size": sum(said["is_recurrent"]),
        "share keys and values of others": said["n_kv_shared_layers"],
        "only guess ahead": said["n_layers_for_guessing"],
    }
    return ", ".join([str(said["n_layers"]), *(f"{n} {remark}" for remark, n in remarks.items() if n)])


def _head_widths(said: Json) -> str:
    """Models whose layers differ have one width for layers with a window, and one for those without."""
    if said["head_dim_k"] != said["head_dim_v"]:
        return f"keys {runs(said['head_dim_k'])} and values {runs(said['head_dim_v'])} wide"
    widths = dict(zip(said["is_sliding"], said["head_dim_k"], strict=True))
    if len(set(widths.values())) == 1:
        return f"{runs(said['head_dim_k'])} wide"
    return f"{widths[True]} wide in layers with a window, {widths[False]} in others"


def runs(values: Sequence[int]) -> str:
    """`8` where all are the same, else how many of each follow one another: `5x256, 512`; the rest is cut short."""
    parts = [(value, len(list(run))) for value, run in groupby(values)]
    if len(parts) == 1:
        return str(parts[0][0])
    shown = [f"{n}x{value}" if n > 1 else str(value) for value, n in parts[:8]]
    return ", ".join(shown) + (", …" if len(parts) > 8 else "")


def _mix(n_bytes_by_type: dict[str, int], n_parameters: int) -> str:
    n_bytes = sum(n_bytes_by_type.values())
    if not n_bytes:
        return "none"
    shares = ", ".join(f"{type_} {100 * n / n_bytes:.1f} %" for type_, n in n_bytes_by_type.items())
    return f"{shares} of the bytes; {8 * n_bytes / n_parameters:.2f} bits a parameter"


def _count(n: int) -> str:
    for unit, size in (("billion", 10**9), ("million", 10**6)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n:,}"


def _tokenizer(tokenizer: Json) -> str:
    pre = f" ({printable(tokenizer['pre'])})" if tokenizer["pre"] else ""
    return f"{printable(tokenizer['model'])}{pre}, {tokenizer['n_merges']:,} merges"


def _template(template: Json | None) -> str:
    if template is None:
        return "none"
    if template["error"]:
        return f"does not work: {printable(template['error'])}"
    tools = f"tools as {template['tools']} writes them" if template["tools"] else "tools told in words"
    how = {True: ", on unless switched off", False: ", off unless switched on", None: ""}[template["thinks"]]
    thinking = f"thinking ({template['thinking']}{how})" if template["thinking"] else "no thinking"
    system = "" if template["takes_system"] else ", no system messages"
    return f"{template['n_chars']:,} characters: {tools}, {thinking}{system}"


def _per_layer_embeddings(model: GgufModel) -> Json | None:
    """Gemma 3n's and 4's second table of embeddings."""
    table = model.tensor("per_layer_token_embd.weight")
    return {"type": table.type, "n_bytes": table.n_bytes} if table else None


def _projector(model: GgufModel) -> Json | None:
    """Of an mmproj file: what it turns into embeddings, and how wide those are."""
    if model.kind != "mmproj":
        return None
    return {
        "type": _text(model.get("projector_type")) or _text(model.get("vision.projector_type")),
        "sees": model.get("has_vision_encoder") is True,
        "hears": model.get("has_audio_encoder") is True,
        "image_size": _number(model.get("vision.image_size")),
        "patch_size": _number(model.get("vision.patch_size")),
        "n_embd": _number(model.get("vision.projection_dim")) or _number(model.get("audio.projection_dim")),
    }


def _projector_lines(projector: Json) -> Iterator[Line]:
    senses = [name for name, has in (("images", projector["sees"]), ("sound", projector["hears"])) if has]
    yield "projector", f"{printable(projector['type'] or 'of no known type')}, for {' and '.join(senses) or 'nothing'}"
    if projector["sees"]:
        yield "images", f"{projector['image_size']} pixels wide, in patches of {projector['patch_size']}"
    yield "projects to", f"{projector['n_embd']} dimensions"


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
