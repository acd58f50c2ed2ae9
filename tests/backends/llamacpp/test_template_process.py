"""Chat templates are programs of strangers: what the worst of them can do is to be refused."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import psutil
import pytest

from backends.llamacpp.chat_template import TemplateError, TemplateRenderer
from tests.backends import ends
from tests.backends.llamacpp.worker import assistant, system, user

SPECIALS = {"bos_token": "<s>", "eos_token": "</s>"}
ENDLESS = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"

CHATML = """\
{% for message in messages %}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# In the manner of Qwen3: the past is shown without its thoughts, and "no thinking" is a thought that is empty.
THINKING = """\
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

# In the manner of Gemma 4: macros, a system turn that switches thinking on, the assistant is called model.
CHANNELS = """\
{%- macro without_thought(text) -%}
    {%- set ns = namespace(kept='') -%}
    {%- for part in text.split('<channel|>') -%}
        {%- set ns.kept = ns.kept + part.split('<|channel>')[0] -%}
    {%- endfor -%}
    {{- ns.kept | trim -}}
{%- endmacro -%}
{{- bos_token -}}
{%- if enable_thinking | default(false) -%}
    {{- '<|turn>system\\n<|think|><turn|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role not in ['user', 'assistant'] -%}
        {{- raise_exception('only users and assistants speak here, not ' + message.role) -}}
    {%- endif -%}
    {%- set role = 'model' if message.role == 'assistant' else message.role -%}
    {{- '<|turn>' + role + '\\n' + without_thought(message.content) + '<turn|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|turn>model\\n' -}}{%- endif -%}
"""


@asynccontextmanager
async def renderer(template: str, *, timeout_s: float = 5.0) -> AsyncIterator[TemplateRenderer]:
    """Closed at the end, and every process it ever had is gone then."""
    one = TemplateRenderer(template, SPECIALS, timeout_s=timeout_s)
    before = children()
    try:
        yield one
    finally:
        await one.close()
    assert all(ends(pid, within_s=1) for pid in children() - before)


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


async def rendered(template: str, *messages: dict[str, str], **variables: Any) -> str:
    async with renderer(template) as one:
        return await one.render({"messages": list(messages), "add_generation_prompt": True, **variables})


async def test_chatml_turns_end_where_they_should() -> None:
    text = await rendered(CHATML, system("Be brief."), user("Hi"))
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert (await rendered(CHATML, user("Hi"), add_generation_prompt=False)).endswith("Hi<|im_end|>\n")


async def test_thinking_is_switched_off_by_a_thought_that_is_empty() -> None:
    past = assistant("<think>\nhm\n</think>\n\nyes")
    start = "<|im_start|>assistant\nyes<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert await rendered(THINKING, past, user("Hi")) == start
    assert await rendered(THINKING, past, user("Hi"), enable_thinking=True) == start
    off = await rendered(THINKING, past, user("Hi"), enable_thinking=False)
    assert off == start + "<think>\n\n</think>\n\n"


async def test_macros_namespaces_and_special_tokens_are_there() -> None:
    past = assistant("<|channel>thought\nhm<channel|>yes ")
    text = await rendered(CHANNELS, user("Hi"), past, enable_thinking=True)
    assert text == (
        "<s><|turn>system\n<|think|><turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\nyes<turn|>\n<|turn>model\n"
    )


async def test_template_that_refuses_is_quoted() -> None:
    with pytest.raises(TemplateError, match=r"refused: only users and assistants speak here, not tool$"):
        await rendered(CHANNELS, {"role": "tool", "content": ""})


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": "ễ<&"}]'),
        ("{{ messages[0].content | tojson(indent=2) }}", '"ễ<&"'),
        ("{% generation %}a{% endgeneration %}b", "ab"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{{ strftime_now('%%') }}", "%"),
        ("{{ missing }}|{{ missing is defined }}", "|False"),
        ("{{ messages[0].content }}", "ễ<&"),
        ("{{ ''.__class__ }}", ""),
    ],
)
async def test_templates_find_what_they_are_written_against(template: str, text: str) -> None:
    assert await rendered(template, user("ễ<&")) == text


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages.__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{{ ''['__cla' ~ 'ss__'].mro() }}", "unsafe|undefined"),
        ("{{ '{0.__class__.__mro__}'.format('') }}", "unsafe"),
        ("{{ raise_exception.__globals__.sys }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.system('id') }}", "unsafe"),
        ("{{ (messages | attr('__class__')).x }}", "unsafe|undefined|no attribute"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ range(1000000) }}", "Range too big"),
        ("{{ missing.field }}", "'missing' is undefined"),
        ("{{ missing() }}", "'missing' is undefined"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ raise_exception('no such role') }}", "refused: no such role$"),
        ("{{ raise_exception('x' * 10000) }}", "x{500}$"),
        ("{% for %}", "does not compile"),
        ("{{ 'unclosed' ", "does not compile"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}", "recurses too deeply"),
        ("{{ 'x' * 2000000000 }}", "memory"),
        ("{{ 'x' * 40000000 }}", "too large"),
        ("{% for i in range(90000) %}{{ 'x' * 1000 }}{% endfor %}", "too large"),
        (
            "{% set ns = namespace(t='xx') %}{% for i in range(64) %}{% set ns.t = ns.t + ns.t %}{% endfor %}",
            "memory|longer than 2 s",
        ),
        ("{{ '\\ud800' }}", "no text"),
        ("{{ raise_exception('\\ud800') }}", "no text"),
        (ENDLESS, "longer than 2 s"),
        ("{% set n = 9 %}{{ n ** (n ** n) }}", "longer than 2 s|memory"),
        ("{{ '%9999999999d' | format(1) }}", "memory|Error"),
        ("{{ [[1] * 90000] * 90000 | string }}", "longer than 2 s|memory|large|Error"),
    ],
)
async def test_hostile_template_is_refused_and_the_next_request_is_answered(template: str, why: str) -> None:
    async with renderer("{% if messages[0].content == 'bad' %}" + template + "{% endif %}ok", timeout_s=2.0) as one:
        with pytest.raises(TemplateError, match=why):
            await one.render({"messages": [user("bad")]})
        if "compile" not in why:
            assert await one.render({"messages": [user("good")]}) == "ok"


async def test_template_that_never_compiles_is_refused_every_time() -> None:
    async with renderer("{{ 9 ** (9 ** 9) }}", timeout_s=0.5) as one:
        for _ in range(2):
            with pytest.raises(TemplateError, match=r"longer than 0\.5 s"):
                await one.render({})


async def test_variables_of_a_request_are_never_taken_for_a_template() -> None:
    async with renderer("{{ template }}|{{ messages[0].content }}", timeout_s=2.0) as one:
        for _ in range(2):
            variables = {"messages": [user("a")], "template": "{{ 1 + 1 }}", "globals": {}}
            assert await one.render(variables) == "{{ 1 + 1 }}|a"
        assert await one.render({"messages": [user("b")]}) == "|b"


async def test_variable_named_self_is_refused() -> None:
    with pytest.raises(TemplateError, match="self"):
        await rendered("x", self=1)


async def test_value_nested_too_deeply_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    async with renderer("{{ x | tojson }}") as one:
        assert (await one.render({"x": deep})).startswith("[[[")


async def test_cancelled_render_ends_its_process_and_the_next_has_a_new_one() -> None:
    async with renderer("{% if x %}" + ENDLESS + "{% endif %}ok", timeout_s=60) as one:
        others = children()
        await one.start()
        mine = children() - others
        assert len(mine) == 1
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await one.render({"x": True})
        assert not mine & children()
        assert await one.render({"x": False}) == "ok"


async def test_process_that_was_killed_is_started_anew() -> None:
    async with renderer("ok") as one:
        before = children()
        await one.start()
        (pid,) = children() - before
        os.kill(pid, 9)
        assert ends(pid, within_s=5)
        with suppress(TemplateError):  # it may not have been noticed yet
            await one.render({})
        assert await one.render({}) == "ok"


async def test_renders_wait_for_each_other_and_each_gets_its_own_text() -> None:
    async with renderer("{{ x }}") as one:
        texts = await asyncio.gather(*(one.render({"x": str(i)}) for i in range(20)))
    assert texts == [str(i) for i in range(20)]


async def test_megabytes_of_conversation_pass_through() -> None:
    text = "ễ" * (1 << 20)
    assert await rendered("{{ messages[0].content }}", user(text)) == text
