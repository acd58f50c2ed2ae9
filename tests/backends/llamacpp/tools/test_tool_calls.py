"""Tools as a client sees them, on the real worker: what has to be a call is one, and streams as OpenAI streams it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.backends.llamacpp.worker import Client, Streamed, Worker, started, system, user

CHAT = "/v1/chat/completions"

# In the manner of Qwen2.5.
HERMES_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + ('user' if message.role == 'tool' else message.role) + '\\n' }}
    {{- '<tool_response>' + message.content + '</tool_response>' if message.role == 'tool' else message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson }}
        {{- '}\\n</tool_call>' }}
    {%- endfor %}
    {%- if loop.first and tools %}
        {{- '# Tools' }}
        {%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {{- '<think>\\n' if thinking is defined else '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}
"""
# In the manner of Gemma 4; it looks for results in the message with the calls.
GEMMA4_TEMPLATE = """\
{%- macro value(it) -%}
    {{- '<|"|>' + it + '<|"|>' if it is string else it | tojson -}}
{%- endmacro -%}
{%- macro named(it) -%}
    {%- for key, inner in it | dictsort %}{{- key + ':' + value(inner) + ('' if loop.last else ',') }}{%- endfor %}
{%- endmacro -%}
{%- for tool in tools or [] %}{{- '<|tool>declaration:' + tool.function.name + '{}<tool|>' }}{%- endfor %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- for call in message.tool_calls or [] %}
        {{- '<|tool_call>call:' + call.function.name + '{' + named(call.function.arguments) + '}<tool_call|>' }}
    {%- endfor %}
    {%- for result in message.tool_responses or [] %}
        {%- set response = result.response if result.response is mapping else {'value': result.response} %}
        {{- '<|tool_response>response:' + result.name + '{' + named(response) + '}<tool_response|>' }}
    {%- endfor %}
    {{- message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>model\\n' }}{%- endif %}
"""
TEMPLATES = {"generic": None, "hermes": HERMES_TEMPLATE, "gemma4": GEMMA4_TEMPLATE}


def tool(name: str, required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": required or list(properties)}
    return {"type": "function", "function": {"name": name, "description": "of use", "parameters": parameters}}


WEATHER = tool("get_weather", city={"type": "string", "maxLength": 8}, unit={"enum": ["C", "F"]})
CLOCK = tool("clock.now")
NAMED = {"type": "function", "function": {"name": "get_weather"}}
ASK = [user("What is the weather in Paris?")]


def call(city: str, id_: str = "a1") -> dict[str, Any]:
    arguments = json.dumps({"city": city, "unit": "C"}, ensure_ascii=False)
    return {"id": id_, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


def called(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def result(content: str, id_: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": content}


# So many examples that even a very small model goes on by itself.
SHOWN = [turn for city in ("Paris", "Rome", "Oslo") for turn in (user(f"Weather in {city}?"), called(call(city)))]
SHOWN += [user("Weather in Berlin?")]


def asked(choice: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": ASK, "tools": [WEATHER, CLOCK], "tool_choice": choice, "max_tokens": 60, **fields}


def is_right(call: dict[str, Any]) -> bool:
    """Whether it is a call of a declared tool with arguments of its schema."""
    assert call["id"].startswith("call_")
    assert call["type"] == "function"
    arguments = json.loads(call["function"]["arguments"])
    if call["function"]["name"] == "clock.now":
        return bool(arguments == {})
    return set(arguments) == {"city", "unit"} and len(arguments["city"]) <= 8 and arguments["unit"] in ("C", "F")


def calls_of(streamed: Streamed, index: int = 0) -> list[dict[str, Any]]:
    """Calls put together from their deltas, which have to come as OpenAI has them."""
    calls: list[dict[str, Any]] = []
    for choice in streamed.choices():
        for delta in choice["delta"].get("tool_calls", ()) if choice["index"] == index else ():
            if "id" in delta:
                assert set(delta) == {"index", "id", "type", "function"}
                assert delta["index"] == len(calls)
                assert delta["function"]["arguments"] == ""
                calls.append({key: value for key, value in delta.items() if key != "index"})
            else:
                assert set(delta) == {"index", "function"}
                assert delta["index"] == len(calls) - 1
                assert set(delta["function"]) == {"arguments"}
                calls[-1]["function"]["arguments"] += delta["function"]["arguments"]
    return calls


def without_id(call: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in call.items() if key != "id"}


@pytest.fixture(scope="module", params=TEMPLATES)
def speaker(
    request: pytest.FixtureRequest, worker: Worker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Worker, str]]:
    """A worker, and the name of the way in which its model is told of tools."""
    template = TEMPLATES[request.param]
    if template is None:
        yield worker, request.param
        return
    path = tmp_path_factory.mktemp("template") / "chat.jinja"
    path.write_text(template)
    with started("--n-ctx", "1024", "--chat-template-file", str(path)) as worker:
        yield worker, request.param


@pytest.fixture
async def told(speaker: tuple[Worker, str]) -> AsyncIterator[Client]:
    async with speaker[0].client() as client:
        yield client


async def prompt_of(client: Client, messages: list[Any], tools: list[Any]) -> str:
    tokens = (await client.ok("/tokenize", {"messages": messages, "tools": tools}))["tokens"]
    return str((await client.ok("/detokenize", {"tokens": tokens}))["prompt"])


async def test_required_call_is_one_at_any_temperature(told: Client) -> None:
    body = asked("required", parallel_tool_calls=False, n=2, seed=3, temperature=2.0)
    for choice in (await told.ok(CHAT, body))["choices"]:
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        (call,) = choice["message"]["tool_calls"]
        assert is_right(call)


async def test_call_streams_as_it_is_answered_whole(told: Client) -> None:
    body = asked(NAMED, parallel_tool_calls=False, temperature=0)
    whole = await told.ok(CHAT, body)
    streamed = await told.stream(CHAT, {**body, "stream_options": {"include_usage": True}})
    (choice,) = whole["choices"]
    assert choice["finish_reason"] == streamed.finish() == "tool_calls"
    assert [without_id(one) for one in calls_of(streamed)] == [
        without_id(one) for one in choice["message"]["tool_calls"]
    ]
    assert not streamed.text()
    for count in ("prompt_tokens", "completion_tokens"):
        assert streamed.chunks[-1]["usage"][count] == whole["usage"][count] > 10


async def test_what_is_counted_is_what_is_answered(told: Client) -> None:
    for messages in (ASK, [system("Be brief."), *ASK]):
        for choice in ("auto", "none"):
            body = {"messages": messages, "tools": [WEATHER], "tool_choice": choice}
            counted = await told.ok("/tokenize", body)
            used = await told.ok(CHAT, {**body, "max_tokens": 1})
            assert used["usage"]["prompt_tokens"] == counted["count"]


async def test_calls_and_results_go_back_to_the_model(speaker: tuple[Worker, str], told: Client) -> None:
    past = [*ASK, called(call("Huế"), call("Hội An", "a2")), result('{"degrees": 31}', "a1"), result("sunny", "a2")]
    prompt = await prompt_of(told, past, [WEATHER])
    written = {
        "generic": '<tool_call>\n{"name":"get_weather","arguments":{"city":"Huế","unit":"C"}}\n</tool_call>',
        "hermes": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Huế", "unit": "C"}}\n</tool_call>',
        "gemma4": '<|tool_call>call:get_weather{city:<|"|>Huế<|"|>,unit:<|"|>C<|"|>}<tool_call|>',
    }[speaker[1]]
    assert prompt.index(written) < prompt.index("Hội An") < prompt.index("31") < prompt.index("sunny")
    await told.ok(CHAT, {"messages": past, "tools": [WEATHER], "max_tokens": 1})


@pytest.mark.parametrize("speaker", ["hermes"], indirect=True)
async def test_call_behind_a_thought_is_held_all_the_same(told: Client) -> None:
    closing = (await told.ok("/tokenize", {"prompt": "</think>", "add_special_tokens": False}))["tokens"]
    body = asked("required", chat_template_kwargs={"thinking": True}, parallel_tool_calls=False, temperature=0)
    body["logit_bias"] = {str(token): 12.0 for token in closing}
    (choice,) = (await told.ok(CHAT, body))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] in ("get_weather", "clock.now")


async def test_model_that_calls_by_itself_is_held_to_the_schema(client: Client) -> None:
    body = asked("auto", messages=SHOWN, temperature=0)
    whole, streamed = await asyncio.gather(client.ok(CHAT, body), client.stream(CHAT, body))
    (choice,) = whole["choices"]
    assert choice["finish_reason"] == streamed.finish() == "tool_calls"
    assert [without_id(one) for one in choice["message"]["tool_calls"]] == [without_id(call("Berlin"))]
    assert [without_id(one) for one in calls_of(streamed)] == [without_id(call("Berlin"))]
    # Its last example is one that this schema does not let it follow.
    narrow = tool("get_weather", city={"type": "string", "maxLength": 3}, unit={"enum": ["F"]})
    (choice,) = (await client.ok(CHAT, {**body, "tools": [narrow]}))["choices"]
    arguments = json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])
    assert arguments == {"city": "Ber", "unit": "F"}


async def test_model_that_calls_though_it_may_not_is_quoted(client: Client) -> None:
    body = asked("none", messages=SHOWN, temperature=0)
    message = (await client.ok(CHAT, body))["choices"][0]["message"]
    assert "tool_calls" not in message
    assert message["content"]


async def test_named_tool_is_the_one_that_is_called(client: Client) -> None:
    for name in ("get_weather", "clock.now"):
        choice = {"type": "function", "function": {"name": name}}
        streamed = await client.stream(CHAT, asked(choice, temperature=0, parallel_tool_calls=False))
        (call,) = calls_of(streamed)
        assert call["function"]["name"] == name
        assert is_right(call)


async def test_arguments_come_in_pieces_and_calls_have_indexes_and_ids(client: Client) -> None:
    body = asked("required", tools=[WEATHER], temperature=0, ignore_eos=True, max_tokens=90)
    streamed = await client.stream(CHAT, body)
    calls = calls_of(streamed)
    assert len({call["id"] for call in calls}) == len(calls) > 1
    assert all(is_right(call) for call in calls[:-1])
    assert sum("tool_calls" in choice["delta"] for choice in streamed.choices()) > 4 * len(calls)
    assert streamed.finish() == "length"


async def test_answer_without_a_call_is_content(client: Client) -> None:
    body = asked("auto", temperature=0, max_tokens=8)
    whole, streamed = await asyncio.gather(client.ok(CHAT, body), client.stream(CHAT, body))
    (choice,) = whole["choices"]
    assert streamed.text() == choice["message"]["content"] != ""
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": []}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "SECRET"}}}, "tool_choice.function.name"),
        ({"tools": [tool("f", a={"type": "SECRET"})]}, "tools.0.function.parameters.properties.a"),
        ({"tools": [WEATHER, tool("f", a={"not": {}})]}, "tools.1.function.parameters.properties.a"),
    ],
)
async def test_what_cannot_be_called_is_refused(client: Client, fields: dict[str, Any], param: str) -> None:
    status, error = await client.error(CHAT, {**asked("required"), **fields})
    assert (status, error["code"], error["param"]) == (400, "invalid_value", param)
    assert "SECRET" not in error["message"]


async def test_schema_that_no_grammar_is_made_of_leaves_arguments_free_where_no_call_is_required(
    client: Client,
) -> None:
    body = asked("auto", messages=SHOWN, temperature=0, tools=[tool("get_weather", city={"not": {}})])
    (choice,) = (await client.ok(CHAT, body))["choices"]
    (found,) = choice["message"]["tool_calls"]
    assert isinstance(json.loads(found["function"]["arguments"]), dict)
