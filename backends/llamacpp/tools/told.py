"""Messages for a template that knows no tools: the tools, the calls made and their results told in words.

The spelling is that of Hermes, which most models have seen. Nothing that a message says is lost; what is told comes
behind it.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

_INSTRUCTION: Final = """\
# Tools

You may call one or more of these functions to help with the request. Each is given as JSON:
<tools>
{tools}
</tools>

To call one, write a JSON object with its name and its arguments inside <tool_call></tool_call>:
<tool_call>
{{"name": "the function's name", "arguments": {{"an argument's name": "its value"}}}}
</tool_call>"""

Message = dict[str, Any]


def told(messages: list[Message], tools: list[dict[str, Any]], *, takes_system: bool) -> list[Message]:
    """`messages` without calls and results, and with an instruction where there are `tools`.

    The instruction goes to the end of the system message. Where the template has no place for one, it goes before the
    first thing that the user says.
    """
    plain = _without_calls(messages)
    if not tools:
        return plain
    instruction = _INSTRUCTION.format(tools="\n".join(orjson.dumps(tool).decode() for tool in tools))
    if plain and plain[0]["role"] == "system":
        return [_joined(plain[0], instruction), *plain[1:]]
    if takes_system:
        return [{"role": "system", "content": instruction}, *plain]
    first = {"role": "user", "content": instruction}
    if plain and plain[0]["role"] == "user":
        return [_joined(first, plain[0]["content"]), *plain[1:]]
    return [first, *plain]


def _without_calls(messages: list[Message]) -> list[Message]:
    """Calls become text of the assistant, results text of the user: one turn with what the user says next."""
    plain: list[Message] = []
    after_result = False
    for message in messages:
        is_result = message["role"] in ("tool", "function")
        if is_result:
            message = {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
        elif "tool_calls" in message:
            message = _with_calls_told(message)
        if after_result and message["role"] == "user":
            plain[-1] = _joined(plain[-1], message["content"], between="\n" if is_result else "\n\n")
        else:
            plain.append(message)
        after_result = is_result
    return plain


def _with_calls_told(message: Message) -> Message:
    calls = message["tool_calls"]
    functions = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    texts = [_call_text(function) for function in functions if isinstance(function, dict)]
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return _joined(rest, "\n".join(texts), between="\n") if texts else rest


def _call_text(function: dict[str, Any]) -> str:
    call = {"name": function.get("name"), "arguments": function.get("arguments")}
    return f"<tool_call>\n{orjson.dumps(call).decode()}\n</tool_call>"


def _joined(message: Message, text: str, *, between: str = "\n\n") -> Message:
    content = message["content"]
    return {**message, "content": f"{content}{between}{text}" if content else text}
