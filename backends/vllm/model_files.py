"""Which model vLLM is told to load, and what its files say before it tries."""

from __future__ import annotations

from pathlib import Path

from backends.base import EngineFailure, FailureReason
from backends.vllm.interpreter import Installed
from backends.vllm.plugins import check_architecture
from backends.vllm.spec import Quantization, VllmSpec
from weights.gguf_header import DamagedHeader, read_metadata
from weights.refs import WeightsMissing, resolve


def local_model(ref: str) -> str:
    """A hub id (`OWNER/NAME`, for a GGUF `OWNER/NAME:QUANT`) as it is; the local file or folder of everything else.

    Raises `EngineFailure` where that is not there.
    """
    if not (ref.startswith(("pkg:", "hf:", "/", ".", "~")) or ref.endswith(".gguf")):
        return ref
    folder, _, quant = ref.rpartition(":")
    for candidate in (ref, folder):
        if candidate and (path := Path(candidate).expanduser()).is_dir():
            return str(path) if candidate == ref else f"{path}:{quant}"
    try:
        return str(resolve(ref))
    except WeightsMissing as error:
        raise EngineFailure(FailureReason.WEIGHTS_MISSING, str(error)) from error


def quantization_of(spec: VllmSpec) -> Quantization | None:
    """What the settings say; a reference to a GGUF says it itself, and `pkg:` leads to nothing else."""
    names_gguf = spec.model.startswith("pkg:") or spec.model.partition("@")[0].endswith(".gguf")
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
