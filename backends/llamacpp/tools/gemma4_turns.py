"""Results of tools where Gemma 4's older template looks for them: in the message that made the calls."""

from __future__ import annotations

from typing import Any

import orjson

Message = dict[str, Any]


def with_results_in_calls(messages: list[Message]) -> list[Message]:
    """Each assistant message with calls takes in the results behind it, and the answer that follows those."""
    turns: list[Message] = []
    for message in messages:
        last = turns[-1] if turns else {}
        if message["role"] == "tool" and isinstance(last.get("tool_calls"), list):
            results = last.get("tool_responses", [])
            name = _name_of(message, last["tool_calls"], len(results))
            result = {"name": name, "response": _response(message["content"])}
            turns[-1] = {**last, "tool_responses": [*results, result]}
        elif message["role"] == "assistant" and not message.get("tool_calls") and "tool_responses" in last:
            turns[-1] = {**last, "content": last["content"] + message["content"]}
        else:
            turns.append(message)
    return turns


def _name_of(result: Message, calls: list[Any], position: int) -> str:
    """The function that was called: by the call's id, or else by the order of the results."""
    calls = [call for call in calls if isinstance(call, dict) and isinstance(call.get("function"), dict)]
    named = [call for call in calls if call.get("id") == result.get("tool_call_id")] or calls[position : position + 1]
    return str(named[0]["function"].get("name")) if named else "unknown"


def _response(content: str) -> Any:
    """What the function returned: an object where the text is one."""
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return content
    return value if isinstance(value, dict) else content
