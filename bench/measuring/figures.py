"""What the requests of one load come to. Units are in the figures' names; a figure that cannot be told is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.measuring.load import Request
from bench.measuring.result import percentile

LATE_S: Final = 0.01
"""A request that was sent so much after its time is late: the client is too slow for the rate, not the server."""
_FLUSHED: Final = 1
"""Chunks that may come beyond the number of tokens: text that was held back, since it could have begun a stop."""


@dataclass(frozen=True, slots=True)
class LatencyTarget:
    """Met by a request whose first text came within `ttft_s`, and 95 % of whose gaps are no longer than `gap_s`."""

    ttft_s: float = 2.0
    gap_s: float = 0.1

    def is_met(self, request: Request) -> bool:
        return request.ttft_s <= self.ttft_s and percentile(request.gaps_s, 95) <= self.gap_s


def figures(requests: Sequence[Request], max_tokens: int, target: LatencyTarget) -> dict[str, float]:
    """Failed requests are in `errors` and nowhere else, except that the time they took is in `wall_s`.

    `wall_s` is from the first send to the last byte. Raises `ValueError` without requests.
    """
    wall_s = max(request.end_s for request in requests) - min(request.sent_s for request in requests)
    good = [request for request in requests if request.error is None]
    met = sum(1 for request in good if target.is_met(request))
    return {
        "requests": float(len(requests)),
        "errors": float(len(requests) - len(good)),
        "wall_s": wall_s,
        "requests_per_s": len(good) / wall_s,
        "goodput_per_s": met / wall_s,
        "goodput_share": met / len(requests),
        **_tokens(good, max_tokens, wall_s),
        **_times(good, max_tokens),
        **_lateness(requests),
        **_engines(good),
    }


def _tokens(good: Sequence[Request], max_tokens: int, wall_s: float) -> dict[str, float]:
    """`prompt_tok` counts what the servers were given, `cached_tok` what they did not compute of it."""
    output = sum(request.output_tokens(max_tokens) for request in good)
    prompt = sum(request.prompt_tokens for request in good)
    chunks = sum(len(request.chunk_s) for request in good)
    return {
        "output_tok": float(output),
        "output_tok_per_s": output / wall_s,
        "prompt_tok": float(prompt),
        "prompt_tok_per_s": prompt / wall_s,
        "total_tok_per_s": (prompt + output) / wall_s,
        "cached_tok": float(sum(request.cached_tokens for request in good)),
        **({"tok_per_chunk": output / chunks} if chunks else {}),
        "without_usage": float(sum(1 for request in good if request.usage is None)),
        "count_mismatches": float(sum(1 for request in good if miscounts(request))),
    }


def miscounts(request: Request) -> bool:
    """Whether the server's counts cannot be right: fewer tokens than chunks with text, or a sum that is not one."""
    if request.usage is None:
        return False
    n_output = int(request.usage["completion_tokens"])
    total = request.usage.get("total_tokens")
    return len(request.chunk_s) > n_output + _FLUSHED or (
        total is not None and total != request.prompt_tokens + n_output
    )


def _times(good: Sequence[Request], max_tokens: int) -> dict[str, float]:
    """`content_ttft_s` is to the first text that is not a thought, told where there were thoughts.

    Speeds are those of one request alone: `prefill` counts the computed prompt tokens until the first text, which
    includes waiting; `decode` counts the tokens after the first text.
    """
    thoughtful = [request for request in good if len(request.said) < len(request.pieces)]
    return {
        **spread("ttft_s", [request.ttft_s for request in good]),
        **spread("gap_s", [gap for request in good for gap in request.gaps_s]),
        **spread("e2e_s", [request.end_s - request.sent_s for request in good]),
        **spread("tpot_s", [1 / speed for speed in (_decode_speed(r, max_tokens) for r in good) if speed]),
        **spread("content_ttft_s", [r.first_said_s - r.sent_s for r in thoughtful if r.first_said_s is not None]),
        **_median("decode_tok_per_s_p50", [speed for r in good if (speed := _decode_speed(r, max_tokens))]),
        **_median("prefill_tok_per_s_p50", [speed for r in good if (speed := _prefill_speed(r))]),
    }


def _decode_speed(request: Request, max_tokens: int) -> float | None:
    n_later = request.output_tokens(max_tokens) - 1
    took_s = request.chunk_s[-1] - request.chunk_s[0]
    return n_later / took_s if n_later > 0 and took_s > 0 else None


def _prefill_speed(request: Request) -> float | None:
    n_computed = request.prompt_tokens - request.cached_tokens
    return n_computed / request.ttft_s if n_computed > 0 and request.ttft_s > 0 else None


def _lateness(requests: Sequence[Request]) -> dict[str, float]:
    late_s = [request.sent_s - request.due_s for request in requests if request.due_s is not None]
    if not late_s:
        return {}
    return {"late_sends": float(sum(1 for by_s in late_s if by_s > LATE_S)), "late_s_max": max(*late_s, 0.0)}


def _engines(good: Sequence[Request]) -> dict[str, float]:
    """How many engines have answered, where a gateway says so: figures of more than one are nobody's."""
    told = {request.engine for request in good if request.engine is not None}
    return {"engines": float(len(told))} if told else {}


def spread(name: str, values: Sequence[float]) -> Mapping[str, float]:
    ordered = sorted(values)
    return {f"{name}_p{percent}": percentile(ordered, percent) for percent in (50, 95, 99) if ordered}


def _median(name: str, values: Sequence[float]) -> Mapping[str, float]:
    return {name: percentile(values, 50)} if values else {}
