"""The parts of the worker's table: what each asks of a server, and which figures come of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from bench.measuring.load import Request, Target, Workload
from bench.side_by_side import measure
from bench.worker import arrival, conversation, rewrite
from bench.worker.arrival import Arrival
from bench.worker.conversation import Conversations
from bench.worker.report import TOTAL
from bench.worker.rewrite import Rewriting

Figures = Mapping[str, float]
SAMPLING: Final = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "seed": 1}


@dataclass(frozen=True, slots=True)
class Turn:
    """One repetition: all targets of it get the same, which no other repetition gets.

    `first_texts` are the answers that the repetition's first target gave, for a part that compares them.
    """

    seed: str
    number: int
    first_texts: list[Request]


Run = Callable[[Target, Turn], Awaitable[Figures]]


@dataclass(frozen=True, slots=True)
class Part:
    """`n_parallel` sequences of `n_ctx_seq` tokens are what its servers are started with. Rows are run in order."""

    n_parallel: int
    n_ctx_seq: int
    rows: Mapping[str, Run]


def _load(workload: Workload, *, sampled: bool = False) -> Run:
    async def run(target: Target, turn: Turn) -> Figures:
        fields = {**target.extra_fields, **(SAMPLING if sampled else {})}
        asked = replace(workload, seed=f"{turn.seed}/{workload.streams}")
        found = await measure(replace(target, extra_fields=fields), asked)
        figures = {
            "tok/s": found.tokens_per_s,
            TOTAL: (found.prompt_tokens + found.output_tokens) / found.wall_s,
            "requests/s": found.requests_per_s,
            "TTFT p50 s": found.ttft_p50_s,
            "TTFT p95 s": found.ttft_p95_s,
            "gap p95 ms": 1000 * found.gap_p95_s,
            "cached tok": float(found.cached_tokens),
            "errors": float(len(found.errors)),
        }
        return figures if found.decode_share is None else {**figures, "in llama_decode": found.decode_share}

    return run


async def _conversation(target: Target, turn: Turn) -> Figures:
    return conversation.figures(await conversation.converse(target, Conversations(seed=turn.seed)))


async def _arrival(target: Target, turn: Turn) -> Figures:
    return arrival.figures(await arrival.arrive(target, Arrival(seed=turn.seed)))


def _rewrite(streams: int) -> Run:
    async def run(target: Target, turn: Turn) -> Figures:
        plan = Rewriting(streams=streams, number=100 * turn.number)
        requests = await rewrite.rewrite(target, plan)
        if not turn.first_texts:
            turn.first_texts.extend(requests)
        return rewrite.figures(requests, plan, turn.first_texts)

    return run


def _streams(*, n_requests: int = 1, sampled: bool = False) -> dict[str, Run]:
    return {
        f"{streams} streams": _load(Workload(streams=streams, requests_per_stream=n_requests), sampled=sampled)
        for streams in (1, 4, 8, 16)
    }


_SHARED: Final = Workload(streams=16, requests_per_stream=2, max_tokens=32, n_prompt=24, n_shared=1000, chat=True)

# In "streams" all arrive together, once; in "sustained" each asks again as soon as it is answered.
PARTS: Final[Mapping[str, Part]] = {
    "streams": Part(16, 512, _streams()),
    "sustained": Part(16, 512, _streams(n_requests=3)),
    "sampled": Part(16, 512, _streams(sampled=True)),
    "shared": Part(16, 1536, {"16 people": _load(_SHARED)}),
    "conversation": Part(4, 2048, {"8 people, 4 at once": _conversation}),
    "arrival": Part(5, 4096, {"4 streams": _arrival}),
    "rewrite": Part(4, 1024, {f"{streams} streams": _rewrite(streams) for streams in (1, 4)}),
}
