"""Where a step's time goes, as the llama.cpp worker counts it. The share does not drift with the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bench.measuring.load import Target, connect

_STEP: Final = "gguf_worker_step_seconds_total"
_DECODE: Final = "gguf_worker_decode_seconds_total"


@dataclass(frozen=True, slots=True)
class Steps:
    """Seconds since the server's start: with work to do, and inside `llama_decode`."""

    step_s: float
    decode_s: float


async def read_steps(target: Target) -> Steps | None:
    """None for a server that has no such counters. Raises `aiohttp.ClientError`."""
    async with connect(target) as session, session.get("/metrics") as answer:
        text = await answer.text() if answer.status == 200 else ""
    samples = dict(line.split(" ")[:2] for line in text.splitlines() if line.startswith((_STEP, _DECODE)))
    if samples.keys() != {_STEP, _DECODE}:
        return None
    return Steps(float(samples[_STEP]), float(samples[_DECODE]))


def decode_share(before: Steps | None, after: Steps | None) -> float | None:
    """Between two readings; None without them, or where there was nothing to do."""
    if before is None or after is None or after.step_s <= before.step_s:
        return None
    return (after.decode_s - before.decode_s) / (after.step_s - before.step_s)
