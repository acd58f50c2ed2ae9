"""Tools: called, not called, forced, and their results fed back."""

from __future__ import annotations

import json

from tests.parity.case import Case, Json, both, chat, user

WEATHER: Json = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
CLOCK: Json = {
    "type": "function",
    "function": {
        "name": "clock",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
        "strict": True,
    },
}
NAMED: Json = {"type": "function", "function": {"name": "weather"}}
ASKED = user("What is the weather in Huế?")
CALL: Json = {"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Huế"}'}}
FED_BACK = (
    ASKED,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call-1", "content": "31 degrees, sunny"},
)


def names_a_city(arguments: str) -> bool:
    try:
        return set(json.loads(arguments)) == {"city"}
    except ValueError:
        return False


CHECK = {"names a city": names_a_city}

CASES: list[Case] = [
    *both(
        chat("tool_choice required", ASKED, tools=[WEATHER], tool_choice="required", max_tokens=60, checks=CHECK),
        chat("tool_choice named", ASKED, tools=[WEATHER, CLOCK], tool_choice=NAMED, max_tokens=60, checks=CHECK),
        chat("tool_choice none", ASKED, tools=[WEATHER], tool_choice="none"),
        chat("tool_choice auto without a call", user("Hello"), tools=[WEATHER], tool_choice="auto"),
        chat("a tool's result", *FED_BACK, tools=[WEATHER]),
    ),
    chat("tools without tool_choice", user("Hello"), tools=[WEATHER]),
    chat(
        "one call at a time",
        ASKED,
        tools=[WEATHER, CLOCK],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=60,
    ),
    chat("required with usage", ASKED, tools=[WEATHER], tool_choice="required", max_tokens=60, stream=True,
         stream_options={"include_usage": True}),
    chat("required after a thought", ASKED, tools=[WEATHER], tool_choice="required", max_tokens=80,
         chat_template_kwargs={"enable_thinking": True}, thinking_token_budget=4),
    chat("a call cut short", ASKED, tools=[WEATHER], tool_choice=NAMED, max_tokens=2),
    chat("a tool's result without tools", *FED_BACK),
    chat("no tools in the list", tools=[]),
    chat("a call without content fed back", ASKED, {"role": "assistant", "tool_calls": [CALL]}, FED_BACK[2]),
]  # fmt: skip
