"""One engine's plan beside what came of it, as `/status` shows them."""

from __future__ import annotations

from typing import Any

from gguf_server.forecast import Forecast


def describe_plan(forecast: Forecast) -> dict[str, Any]:
    """`predicted` and `measured` are null where nobody knows; `gaps` say why there is no plan."""
    return {
        "policy": forecast.policy,
        "memory": _memory(forecast),
        "decode_tokens_per_s": _speed(forecast),
        "prompt_tokens_per_s": {"predicted": _rounded(_prompt_speed(forecast)), "measured": None},
        "warnings": [*forecast.doubts, *forecast.shortcomings],
        "gaps": list(forecast.plan.gaps),
    }


def _memory(forecast: Forecast) -> dict[str, Any]:
    """Of the card where it computes on one, else of the machine; and each by itself."""
    need, held = forecast.plan.memory, forecast.held
    gpu = _pair(need.gpu_taken_bytes if need else None, held.gpu_bytes)
    host = _pair(need.host_bytes if need else None, held.host_bytes)
    return {
        "device": "gpu" if forecast.is_on_card else "host",
        **(gpu if forecast.is_on_card else host),
        "error": need.error if need else None,
        "gpu": gpu,
        "host": host,
        "free_before": {
            "gpu_bytes": forecast.room.gpu_free_bytes,
            "host_bytes": forecast.room.host_free_bytes,
        },
        "parts": [
            {"name": part.name, "gpu_bytes": part.gpu_bytes, "host_bytes": part.host_bytes}
            for part in (need.parts if need else ())
        ],
    }


def _speed(forecast: Forecast) -> dict[str, Any]:
    """Of one stream alone. `context_tokens`: what was before the middle of the answers measured."""
    typical = forecast.speed.typical()
    return {
        "predicted": _rounded(forecast.expected_tokens_per_s),
        "measured": _rounded(typical.tokens_per_s if typical else None),
        "error": forecast.plan.speed.error if forecast.plan.speed else None,
        "streams": forecast.speed.n_streams,
        "context_tokens": round(typical.n_context) if typical else None,
        "is_slow": forecast.is_slow,
    }


def _prompt_speed(forecast: Forecast) -> float | None:
    return forecast.plan.speed.prompt_tokens_per_s if forecast.plan.speed else None


def _pair(predicted: int | None, measured: int | None) -> dict[str, int | None]:
    return {"predicted_bytes": predicted, "measured_bytes": measured}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
