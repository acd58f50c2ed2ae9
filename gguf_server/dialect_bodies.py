"""A request body, written for vLLM's dialect, in another.

llama-server ignores what it does not know, so what it knows by another name is renamed and what it misreads is put
right. `bad_words`, `min_tokens`, `stop_token_ids` and a `guided_regex` have no counterpart there and have no effect.

Of a server that is only known to speak OpenAI's API, some refuse a field that OpenAI does not have, so it is sent none:
`top_k`, `min_p` and `repetition_penalty` have no effect there, of the service's defaults as of the client's, and
thinking is whatever that server does by itself. Those known to take them (vLLM, llama-server) have a dialect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from backends.base import Dialect

_OPENAI_FIELDS: Final = frozenset(
    {
        "best_of",
        "echo",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "max_tokens",
        "messages",
        "model",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt",
        "reasoning_effort",
        "response_format",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "suffix",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
    }
)
_ONLY_WITH_TOOLS: Final = ("parallel_tool_calls", "tool_choice")
_REASONING: Final = ("reasoning", "reasoning_content")
_RENAMED: Final = {"repetition_penalty": "repeat_penalty", "thinking_token_budget": "reasoning_budget_tokens"}
_NEWER: Final = {
    "guided_json": "json",
    "guided_grammar": "grammar",
    "guided_choice": "choice",
    "guided_regex": "regex",
}
_CONSTRAINTS: Final = (*_NEWER, "structured_outputs")


def translate(dialect: Dialect, body: Mapping[str, Any]) -> dict[str, Any]:
    """A new body; `body` is not changed."""
    match dialect:
        case Dialect.VLLM:
            return _for_vllm(body)
        case Dialect.LLAMA_SERVER:
            return _for_llama_server(body)
        case Dialect.OPENAI:
            return _for_openai(body)


def _for_vllm(body: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM ignores its own older spelling of a constraint by now: it is sent the newer. Two are left as they are."""
    older = {key: value for key, value in body.items() if key in _NEWER and value is not None}
    if len(older) != 1 or body.get("structured_outputs") is not None:
        return dict(body)
    ((key, value),) = older.items()
    asked = {name: value for name, value in body.items() if name not in _NEWER}
    return {**asked, "structured_outputs": {_NEWER[key]: value}}


def _for_llama_server(body: Mapping[str, Any]) -> dict[str, Any]:
    asked = {_RENAMED.get(key, key): value for key, value in body.items() if key not in _CONSTRAINTS}
    if asked.get("top_k") == -1:
        asked["top_k"] = 0  # all
    if not asked.get("logprobs"):
        asked.pop("top_logprobs", None)  # refused alone
    if asked.get("stream"):
        asked["sse_ping_interval"] = -1  # they come from a server that hangs as well
    asked |= _constraint(body)
    choice = asked.get("tool_choice")
    if isinstance(choice, dict):  # taken for "auto" otherwise
        name = (choice.get("function") or {}).get("name")
        named = [tool for tool in asked.get("tools") or () if (tool.get("function") or {}).get("name") == name]
        if named:
            asked |= {"tool_choice": "required", "tools": named}
    if "messages" in asked:
        asked["messages"] = [_with_one_reasoning(message) for message in asked["messages"]]
    return asked


def _constraint(body: Mapping[str, Any]) -> dict[str, Any]:
    """What the answer has to look like, from vLLM's newer field or its older ones."""
    newer = body.get("structured_outputs") or {}
    if schema := newer.get("json") or body.get("guided_json"):
        return {"json_schema": orjson.loads(schema) if isinstance(schema, str) else schema}
    if grammar := newer.get("grammar") or body.get("guided_grammar"):
        return {"grammar": grammar}
    if choices := newer.get("choice") or body.get("guided_choice"):
        return {"grammar": "root ::= " + " | ".join(orjson.dumps(str(choice)).decode() for choice in choices)}
    return {}


def _with_one_reasoning(message: Mapping[str, Any]) -> dict[str, Any]:
    """The newer spelling of a message's reasoning as the one that is read there."""
    asked = {key: value for key, value in message.items() if key != "reasoning"}
    if message.get("reasoning") and not message.get("reasoning_content"):
        asked["reasoning_content"] = message["reasoning"]
    return asked


def _for_openai(body: Mapping[str, Any]) -> dict[str, Any]:
    asked = {key: value for key, value in body.items() if key in _OPENAI_FIELDS}
    if schema := _constraint(body).get("json_schema"):
        asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    if not asked.get("tools"):
        for name in _ONLY_WITH_TOOLS:
            asked.pop(name, None)
    if not asked.get("stream"):
        asked.pop("stream_options", None)
    if "messages" in asked:
        asked["messages"] = [
            {key: value for key, value in message.items() if key not in _REASONING} for message in asked["messages"]
        ]
    return asked
