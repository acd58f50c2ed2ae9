"""Repetitive text: records that are to be copied. Does guessing ahead pay, and is the answer the same?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.measuring.load import Clock, Request, Target, connect, send, shortfall, stream_body
from bench.worker.dialogues import REQUESTS, record

_PATH: Final = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Rewriting:
    """`number` makes the records differ from those of other runs."""

    streams: int = 1
    n_records: int = 3
    n_lines: int = 8
    max_tokens: int = 160
    number: int = 0
    timeout_s: float = 600.0


async def rewrite(target: Target, plan: Rewriting, clock: Clock = time.perf_counter) -> list[Request]:
    """Each stream has its records one after another; languages take turns."""
    async with connect(target) as session, asyncio.TaskGroup() as group:

        async def stream(first: int) -> list[Request]:
            requests = []
            for index in range(first, first + plan.n_records):
                text = f"{REQUESTS[index % len(REQUESTS)]}\n\n{record(index, plan.number + index, plan.n_lines)}"
                messages = [{"role": "user", "content": text}]
                request = Request(sent_s=clock())
                body = {**stream_body(target, plan.max_tokens), "messages": messages}
                await send(session, _PATH, body, request, timeout_s=plan.timeout_s, clock=clock)
                request.error = request.error or shortfall(request, plan.max_tokens)
                requests.append(request)
            return requests

        tasks = [group.create_task(stream(number * plan.n_records)) for number in range(plan.streams)]
    return [request for task in tasks for request in task.result()]


def figures(requests: Sequence[Request], plan: Rewriting, first: Sequence[Request]) -> Mapping[str, float]:
    """`first` are the same requests to the first target; `texts equal` is the share of texts that are its own.

    `decode tok/s` leaves the prompts out: tokens behind each first one, in the time since that.
    """
    good = [request for request in requests if request.error is None]
    wall_s = max(request.end_s for request in requests) - min(request.sent_s for request in requests)
    decode_s = sum(request.end_s - request.chunk_s[0] for request in good) / plan.streams
    equal = [mine.text == other.text for mine, other in zip(requests, first, strict=True)]
    n_tokens = sum(request.output_tokens(plan.max_tokens) for request in good)
    return {
        "tok/s": n_tokens / wall_s,
        "decode tok/s": (n_tokens - len(good)) / decode_s if decode_s else 0.0,
        "texts equal": sum(equal) / len(equal),
        "errors": float(len(requests) - len(good)),
    }
