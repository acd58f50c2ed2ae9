"""What a template can do is read off what it makes of a tool, a call and a result."""

from __future__ import annotations

from typing import Any

import pytest

from backends.llamacpp.template_process import answer, make_environment
from backends.llamacpp.tools.formats import probe
from backends.llamacpp.tools.template import ToolTemplate
from tests.backends.llamacpp.tools.test_tool_calls import (
    GEMMA4_TEMPLATE,
    HERMES_TEMPLATE,
    WEATHER,
    call,
    called,
    result,
)
from tests.backends.llamacpp.worker import assistant, system, user

PLAIN = """\
{%- for message in messages %}
    {{- '[' + message.role + ']' + message.content }}
{%- endfor %}
"""
ALTERNATING = """\
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('not in turn') }}{% endif %}
    {{- '[' + message.role + ']' + message.content }}
{%- endfor %}
"""
# Shows tools, and writes calls as Qwen3-Coder does.
XML = """\
{{- tools | tojson if tools else '' }}
{%- for message in messages %}
    {{- '[' + message.role + ']' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>\\n<function=' + call.function.name + '>\\n</function>\\n</tool_call>' }}
    {%- endfor %}
{%- endfor %}
"""
GEMMA4_WITH_RESULTS = GEMMA4_TEMPLATE.replace(
    "{{- message.content", "{{- 'response:probe_function' if message.role == 'tool' else '' }}{{- message.content"
)


def renderer(template: str) -> Any:
    compiled = make_environment().from_string(template)

    async def render(variables: dict[str, Any]) -> str | None:
        return answer(compiled, variables).get("text")

    return render


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (PLAIN, (None, True, True)),
        (ALTERNATING, (None, False, True)),
        (XML, (None, True, True)),
        ("{{ raise_exception('no') }}", (None, False, True)),
        (HERMES_TEMPLATE, ("hermes", True, True)),
        (GEMMA4_TEMPLATE, ("gemma4", True, False)),
        (GEMMA4_WITH_RESULTS, ("gemma4", True, True)),
    ],
    ids=["plain", "alternating", "xml", "broken", "hermes", "gemma4", "gemma4 with results"],
)
async def test_format_is_the_one_in_which_the_template_writes_a_call(template: str, expected: object) -> None:
    can = await probe(renderer(template))
    assert (can.format and can.format.name, can.takes_system, can.takes_results) == expected


async def told(template: str, messages: list[dict[str, Any]], *, offered: bool = True) -> str:
    """What a template makes of messages with a tool."""
    plain = [{**message, "content": message["content"] or ""} for message in messages]
    shown = await ToolTemplate(renderer(template)).show(plain, [WEATHER], offered=offered)
    assert shown.tools is None
    text = await renderer(template)({"messages": shown.messages})
    assert isinstance(text, str)
    return text


async def test_instruction_comes_behind_the_system_message_that_is_there() -> None:
    text = await told(PLAIN, [system("Be brief."), user("Hi")])
    assert text.startswith("[system]Be brief.\n\n# Tools")
    assert text.endswith("</tool_call>[user]Hi")
    assert '"get_weather"' in text


async def test_instruction_makes_a_system_message_where_there_is_none() -> None:
    assert (await told(PLAIN, [user("Hi")])).startswith("[system]# Tools")


async def test_instruction_goes_to_the_user_where_the_template_has_no_place_for_a_system() -> None:
    text = await told(ALTERNATING, [user("Hi"), assistant("Hello"), user("So?")])
    assert text.startswith("[user]# Tools")
    assert text.endswith("</tool_call>\n\nHi[assistant]Hello[user]So?")


async def test_calls_and_results_are_told_in_turn() -> None:
    past = [user("Hi"), {**called(call("Huế"), call("Hà Nội", "a2")), "content": "Let me see."}]
    past += [result("31", "a1"), result("28", "a2"), user("So?")]
    text = await told(ALTERNATING, past, offered=False)
    assert text.startswith("[user]Hi[assistant]Let me see.\n<tool_call>\n{")
    assert text.count("<tool_call>\n{") == 2
    assert text.endswith("[user]<tool_response>\n31\n</tool_response>\n<tool_response>\n28\n</tool_response>\n\nSo?")


@pytest.mark.parametrize("calls", [None, 7, "x", {}, [None], [{"function": 1}], [{"function": {}}]])
async def test_calls_of_any_shape_do_no_harm(calls: object) -> None:
    past: list[dict[str, Any]] = [user("Hi"), {**assistant("Hello"), "tool_calls": calls}, user("So?")]
    assert "Hello" in await told(PLAIN, past)


async def test_results_go_into_the_message_with_their_calls_where_the_template_looks_for_them_there() -> None:
    past = [user("Hi"), called(call("Huế"), {**call("x", "a2"), "function": {"name": "g", "arguments": {}}})]
    past += [result("sunny", "a2"), result('{"degrees": 31}', "a1"), result("?", "a9"), assistant("So."), user("Hm")]
    plain = [{**message, "content": message["content"] or ""} for message in past]
    shown = await ToolTemplate(renderer(GEMMA4_TEMPLATE)).show(plain, [WEATHER], offered=True)
    assert [message["role"] for message in shown.messages] == ["user", "assistant", "user"]
    assert shown.messages[1]["content"] == "So."
    assert shown.messages[1]["tool_responses"] == [
        {"name": "g", "response": "sunny"},
        {"name": "get_weather", "response": {"degrees": 31}},
        {"name": "unknown", "response": "?"},
    ]
