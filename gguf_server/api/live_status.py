"""A service's last minute, as `/status` shows it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from gguf_server.chain import EngineChain
from gguf_server.moves import Move, unambiguous
from gguf_server.service import Service


def describe_live(service: Service) -> dict[str, Any]:
    """`ttft_s` is null where no stream ended within the window. Moves of engines come newest first."""
    figures = service.figures.read(asyncio.get_running_loop().time(), service.running_answers())
    names = engine_names(service.chain)
    ttft_s = figures.ttft_s
    return {
        "window_s": figures.window_s,
        "tokens_per_s": round(figures.tokens_per_s, 1),
        "requests_per_min": round(figures.requests_per_min, 1),
        "ttft_s": None if ttft_s is None else {"p50": round(ttft_s[0], 3), "p95": round(ttft_s[1], 3)},
        "errors": figures.n_errors,
        "recent_failovers": [_describe(move, names) for move in reversed(service.chain.moves.recent)],
    }


def engine_names(chain: EngineChain) -> tuple[str, ...]:
    engines = [link.engine for link in chain.links]
    return unambiguous([engine.name for engine in engines], [engine.device for engine in engines])


def _describe(move: Move, names: tuple[str, ...]) -> dict[str, Any]:
    """`scope`: whether the service moved, or requests that had begun, and how many of those (`count`)."""
    return {
        "at": datetime.fromtimestamp(move.at, UTC).isoformat(),
        "from": names[move.source],
        "to": None if move.target is None else names[move.target],
        "reason": move.reason,
        "scope": move.scope,
        "count": move.n,
    }
