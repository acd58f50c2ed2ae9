"""Which model vLLM is told to load, and what its files say before it tries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from backends.base import EngineFailure, FailureReason
from backends.vllm.interpreter import Installed
from backends.vllm.plugins import check_architecture
from backends.vllm.spec import Quantization, VllmSpec
from backends.weight_files import unusable
from weights.gguf_header import DamagedHeader, read_metadata
from weights.reference import HubRepo, parse
from weights.refs import WeightsDamaged, WeightsMissing, resolve, resolve_repo


def local_model(ref: str) -> str:
    """The local file or folder that `ref` leads to.

    A hub id (`OWNER/NAME`, for a GGUF `OWNER/NAME:QUANT`) stays as it is where the cache does not hold it all: then
    vLLM fetches it. Raises `EngineFailure` where a file is not whole, and where any other reference leads nowhere.
    Blocks as `weights.refs.resolve` does.
    """
    folder, _, quant = ref.rpartition(":")
    for candidate in () if _is_hub_id(ref) else (ref, folder):
        if candidate and (path := Path(candidate).expanduser()).is_dir():
            return str(path) if candidate == ref else f"{path}:{quant}"
    try:
        return _of_hub_id(ref) if _is_hub_id(ref) else _of_reference(ref)
    except WeightsMissing as error:
        raise unusable(error) from error


def local_tokenizer(ref: str | None) -> str | None:
    """The folder of a hub id whose tokenizer and configuration are all here, so that vLLM need not ask the hub.

    Anything else stays as it is. Raises `EngineFailure` where a file is not whole.
    """
    if ref is None or not _is_hub_id(ref) or Path(ref).is_dir():
        return ref
    try:
        wanted = parse(f"hf:{ref}")
        return str(resolve_repo(replace(wanted, with_weights=False))) if isinstance(wanted, HubRepo) else ref
    except WeightsDamaged as error:
        raise unusable(error) from error
    except WeightsMissing:
        return ref


def _is_hub_id(ref: str) -> bool:
    return not (ref.startswith(("pkg:", "hf:", "/", ".", "~")) or ref.endswith(".gguf"))


def _of_hub_id(ref: str) -> str:
    try:
        return _of_reference(f"hf:{ref}")
    except WeightsDamaged:
        raise
    except WeightsMissing:
        return ref


def _of_reference(ref: str) -> str:
    wanted = parse(ref)
    return str(resolve_repo(wanted) if isinstance(wanted, HubRepo) else resolve(ref))


def quantization_of(spec: VllmSpec) -> Quantization | None:
    """What the settings say; a reference to a GGUF says it itself, and `pkg:` leads to nothing else."""
    names_quant = spec.model.startswith("hf:") and ":" in spec.model.removeprefix("hf:")
    names_gguf = names_quant or spec.model.startswith("pkg:") or spec.model.partition("@")[0].endswith(".gguf")
    return spec.quantization or ("gguf" if names_gguf else None)


def check_gguf(spec: VllmSpec, model: str, found: Installed) -> None:
    """Raises `EngineFailure` for a local GGUF that is damaged, lacks a config.json, or would come out wrong."""
    path = Path(model)
    if not path.is_file():
        return
    try:
        architecture = read_metadata(path, "general.architecture").get("general.architecture")
    except DamagedHeader as error:
        raise EngineFailure(FailureReason.WEIGHTS_DAMAGED, f"{path.name}: {error}") from error
    if not isinstance(architecture, str):
        raise EngineFailure(FailureReason.WEIGHTS_DAMAGED, f"{path.name} does not name its architecture")
    if not spec.trust_gguf_architecture:
        check_architecture(found, architecture)
    if not (spec.tokenizer or spec.hf_config_path or path.with_name("config.json").is_file()):
        detail = "vLLM reads no tokenizer and no config.json from a GGUF: `tokenizer` must name the base model"
        raise EngineFailure(FailureReason.INVALID_SETTINGS, detail)
