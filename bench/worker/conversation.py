"""Conversations of several turns, more of them than the server has sequences: what is computed again?

Each turn's prompt is the whole history. `at_once` people are answered at a time, in turn, so that between two turns
of one person others have had the sequences.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

import aiohttp

from bench.measuring.drive import answer_in_turn
from bench.measuring.load import Clock, Request, Target, connect, send, shortfall, stream_body
from bench.measuring.result import percentile
from bench.worker.dialogues import says

_PATH: Final = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Conversations:
    """`seed` makes the histories differ from those of other runs from their first words on."""

    people: int = 8
    at_once: int = 4
    turns: int = 10
    max_tokens: int = 32
    seed: str = "0"
    timeout_s: float = 600.0


@dataclass(slots=True)
class Person:
    number: int
    messages: list[dict[str, str]]
    turns: list[Request] = field(default_factory=list)

    @property
    def has_failed(self) -> bool:
        return any(turn.error is not None for turn in self.turns)


async def converse(target: Target, plan: Conversations, clock: Clock = time.perf_counter) -> list[Person]:
    """All conversations to their end; a person whose turn fails says no more."""
    people = [Person(number, [_system(plan, number)]) for number in range(plan.people)]
    async with connect(target) as session:

        async def turn(person: Person) -> bool:
            await _take_turn(session, target, plan, person, clock)
            return len(person.turns) < plan.turns and not person.has_failed

        await answer_in_turn(people, plan.at_once, turn)
    return people


async def _take_turn(
    session: aiohttp.ClientSession, target: Target, plan: Conversations, person: Person, clock: Clock
) -> None:
    person.messages.append({"role": "user", "content": says(person.number, len(person.turns))})
    request = Request(sent_s=clock())
    body = {**stream_body(target, plan.max_tokens), "messages": person.messages}
    await send(session, _PATH, body, request, timeout_s=plan.timeout_s, clock=clock)
    request.error = request.error or shortfall(request, plan.max_tokens)
    person.messages.append({"role": "assistant", "content": request.text})
    person.turns.append(request)


def _system(plan: Conversations, number: int) -> dict[str, str]:
    return {"role": "system", "content": f"{plan.seed}/{number}: you are a patient adviser. Answer briefly."}


def figures(people: Sequence[Person]) -> Mapping[str, float]:
    """Of turns after the first, `new tok` are those that no answer before has computed, at the least.

    `recomputed tok` is what the server computed beyond them: each is a prompt token that was known before.
    """
    later = [(before, turn) for person in people for before, turn in zip(person.turns, person.turns[1:], strict=False)]
    later = [(before, turn) for before, turn in later if before.error is None and turn.error is None]
    if not later:
        return {"errors": float(_errors(people))}
    firsts = [person.turns[0].ttft_s for person in people if person.turns[0].error is None]
    ttfts = [turn.ttft_s for _, turn in later]
    new = [max(turn.prompt_tokens - _known(before), 1) for before, turn in later]
    computed = [turn.prompt_tokens - turn.cached_tokens for _, turn in later]
    wall_s = max(p.turns[-1].end_s for p in people) - min(p.turns[0].sent_s for p in people)
    return {
        "TTFT of the first turn p50 s": median(firsts),
        "TTFT of later turns p50 s": median(ttfts),
        "TTFT of later turns p95 s": percentile(ttfts, 95),
        "turns/s": sum(len(person.turns) for person in people) / wall_s,
        "new tok": float(sum(new)),
        "recomputed tok": float(sum(max(had - need, 0) for had, need in zip(computed, new, strict=True))),
        "errors": float(_errors(people)),
    } | {f"TTFT of turn {n + 1} p50 s": value for n, value in enumerate(_by_turn(people))}


def _known(turn: Request) -> int:
    """Tokens of a turn whose state was computed: the last one that was generated has not been put in."""
    generated = int((turn.usage or {}).get("completion_tokens", 0))
    return turn.prompt_tokens + generated - 1


def _by_turn(people: Sequence[Person]) -> list[float]:
    n_turns = min(len(person.turns) for person in people)
    return [
        median([person.turns[n].ttft_s for person in people if person.turns[n].error is None] or [0.0])
        for n in range(n_turns)
    ]


def _errors(people: Sequence[Person]) -> int:
    return sum(1 for person in people for turn in person.turns if turn.error is not None)
