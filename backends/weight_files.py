"""From a reference to a model file to that file, or to the reason why an engine cannot start."""

from __future__ import annotations

from pathlib import Path

from backends.base import EngineFailure, FailureReason
from weights.refs import WeightsDamaged, WeightsMissing, resolve


def local_file(ref: str) -> Path:
    """Raises `EngineFailure`. Blocks where the file was never checked: `weights.refs.resolve`."""
    try:
        return resolve(ref)
    except WeightsMissing as error:
        raise unusable(error) from error


def unusable(error: WeightsMissing) -> EngineFailure:
    is_damaged = isinstance(error, WeightsDamaged)
    return EngineFailure(FailureReason.WEIGHTS_DAMAGED if is_damaged else FailureReason.WEIGHTS_MISSING, str(error))
