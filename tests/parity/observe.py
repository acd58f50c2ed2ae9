"""What is compared of an answer: its status, its shape, and facts that hold whatever the model says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.parity.case import Case, Json
from tests.parity.shape import Shape, shape_of

_DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class Observation:
    status: int
    shape: Shape
    facts: Mapping[str, Any]


async def observe(session: aiohttp.ClientSession, case: Case) -> Observation:
    headers = {"Content-Type": "application/json"} if case.data is not None else {}
    async with session.request(case.method, case.path, data=case.data, headers=headers) as response:
        return observed(case, response.status, response.content_type, await response.text())


def observed(case: Case, status: int, content_type: str, body: str) -> Observation:
    if content_type == "text/event-stream":
        events = [line.removeprefix("data: ") for line in body.split("\n") if line.startswith("data:")]
        chunks = [json.loads(event) for event in events if event != _DONE]
        return Observation(status, shape_of(chunks), _stream_facts(case, chunks, is_done=events[-1:] == [_DONE]))
    if content_type != "application/json":
        return Observation(status, {}, {"body": "empty" if not body else content_type})
    answer = json.loads(body)
    facts = _error_facts(answer) if status >= 400 else _whole_facts(case, answer)
    return Observation(status, shape_of([answer]), facts)


def _error_facts(answer: Any) -> Json:
    """The name of the field at fault, where it is told."""
    error = answer.get("error")
    param = error.get("param") if isinstance(error, dict) else None
    return {"param": param.removeprefix("body.")} if param else {}


def _whole_facts(case: Case, answer: Json) -> Json:
    facts: Json = {name: answer[name] for name in ("object", "count", "max_model_len") if name in answer}
    if not answer.get("choices"):
        return facts
    messages = [choice.get("message") or {"content": choice["text"]} for choice in answer["choices"]]
    calls = [_call_facts(message.get("tool_calls") or ()) for message in messages]
    facts |= _choice_facts(case, [choice["finish_reason"] for choice in answer["choices"]], messages, calls)
    return facts | _usage_facts(answer.get("usage"), facts["finish"])


def _stream_facts(case: Case, chunks: list[Json], *, is_done: bool) -> Json:
    facts: Json = {"done": is_done, "object": sorted({str(chunk.get("object")) for chunk in chunks})}
    usages = [index for index, chunk in enumerate(chunks) if chunk.get("usage")]
    facts["usage in"] = "none" if not usages else "the last" if usages == [len(chunks) - 1] else "several"
    choices = [choice for chunk in chunks for choice in chunk.get("choices", ())]
    if not choices:
        return facts
    messages: dict[int, Json] = {}
    calls: dict[int, list[Json]] = {}
    finish: dict[int, str] = {}
    for choice in choices:
        index, delta = choice["index"], choice.get("delta") or {"content": choice.get("text")}
        for name in ("content", "reasoning"):
            kept = messages.setdefault(index, {})
            kept[name] = (kept.get(name) or "") + (delta.get(name) or "")
        calls.setdefault(index, []).extend(delta.get("tool_calls") or ())
        finish[index] = choice.get("finish_reason") or finish.get(index, "none")
    facts["first delta"] = choices[0].get("delta", "a text")
    facts["finish in"] = sum(1 for choice in choices if choice.get("finish_reason"))
    joined = [_call_facts(_joined(pieces)) for _, pieces in sorted(calls.items())]
    facts |= _choice_facts(case, [finish[i] for i in sorted(finish)], [messages[i] for i in sorted(messages)], joined)
    return facts | (_usage_facts(chunks[-1].get("usage"), facts["finish"]) if usages else {})


def _joined(pieces: list[Json]) -> list[Json]:
    """Calls put together from their deltas, as OpenAI's clients do."""
    calls: dict[int, Json] = {}
    for piece in pieces:
        call = calls.setdefault(piece["index"], {"id": None, "type": None, "function": {"name": "", "arguments": ""}})
        call |= {name: piece[name] for name in ("id", "type") if piece.get(name)}
        for name, value in (piece.get("function") or {}).items():
            call["function"][name] += value or ""
    return [call for _, call in sorted(calls.items())]


def _call_facts(calls: Any) -> list[Json]:
    return [{"name": call["function"]["name"], "arguments": call["function"]["arguments"]} for call in calls]


def _choice_facts(case: Case, finish: list[str], messages: list[Json], calls: list[list[Json]]) -> Json:
    facts: Json = {"choices": len(messages), "finish": finish}
    facts["says"] = [[name for name in ("content", "reasoning") if message.get(name)] for message in messages]
    if any(calls):
        facts["calls"] = [[call["name"] for call in of_choice] for of_choice in calls]
    first = calls[0][0]["arguments"] if calls and calls[0] else messages[0].get("content") or ""
    return facts | {name: check(first) for name, check in case.checks.items()}


def _usage_facts(usage: Json | None, finish: list[str]) -> Json:
    if not usage:
        return {"usage": None}
    facts: Json = {"prompt tokens": usage["prompt_tokens"]}
    if set(finish) == {"length"}:
        facts["completion tokens"] = usage["completion_tokens"]
    return facts | {"total is the sum": usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]}
