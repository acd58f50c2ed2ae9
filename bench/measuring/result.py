"""What a load comes to: one row of numbers from the requests of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.measuring.load import Request, Workload


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Failed requests are in `errors` and nowhere else, except that the time they took is in `wall_s`.

    `wall_s` is from the first send to the last byte; a gap is the time between two chunks with text of one
    request. `chunks` far below `output_tokens`: the server sends several tokens at a time, and its gaps are not
    those between tokens.
    """

    requests: int
    output_tokens: int
    chunks: int
    wall_s: float
    tokens_per_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    gap_p50_s: float
    gap_p95_s: float
    prompt_tokens: int
    cached_tokens: int
    errors: tuple[str, ...]
    decode_share: float | None = None
    """Of the time in which the server had work, that inside `llama_decode`; None where the server does not tell."""

    @property
    def requests_per_s(self) -> float:
        return (self.requests - len(self.errors)) / self.wall_s


def summarise(requests: Sequence[Request], workload: Workload) -> LoadResult:
    good = [request for request in requests if request.error is None]
    ttfts = [request.ttft_s for request in good]
    gaps = [gap for request in good for gap in request.gaps_s]
    output_tokens = sum(request.output_tokens(workload.max_tokens) for request in good)
    wall_s = max(request.end_s for request in requests) - min(request.sent_s for request in requests)
    return LoadResult(
        requests=len(requests),
        output_tokens=output_tokens,
        chunks=sum(len(request.chunk_s) for request in good),
        wall_s=wall_s,
        tokens_per_s=output_tokens / wall_s,
        ttft_p50_s=percentile(ttfts, 50),
        ttft_p95_s=percentile(ttfts, 95),
        gap_p50_s=percentile(gaps, 50),
        gap_p95_s=percentile(gaps, 95),
        prompt_tokens=sum(request.prompt_tokens for request in good),
        cached_tokens=sum(request.cached_tokens for request in good),
        errors=tuple(request.error for request in requests if request.error is not None),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Between the two nearest ranks, linearly, as numpy's default; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)
