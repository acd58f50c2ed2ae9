"""What chat templates can do, as real ones and hostile ones show it."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.llamacpp.chat_template import TemplateError
from backends.llamacpp.template_features import TemplateFeatures, find_features

TEMPLATES = Path(__file__).parents[2] / "models" / "templates"


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("qwen3", TemplateFeatures(tools="hermes", thinking="think", thinks=True, takes_system=True)),
        ("qwen2", TemplateFeatures(tools="hermes", thinking=None, thinks=None, takes_system=True)),
        ("gemma4", TemplateFeatures(tools="gemma4", thinking="gemma4", thinks=False, takes_system=True)),
        ("gemma3", TemplateFeatures(tools=None, thinking=None, thinks=None, takes_system=True)),
    ],
)
async def test_a_template_shows_what_it_can_do(name: str, features: TemplateFeatures) -> None:
    assert await find_features((TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")) == features


async def test_a_template_that_refuses_system_messages_takes_none() -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}"
    assert not (await find_features(template)).takes_system


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% if %}", "chat template refused"),
        ("{{ raise_exception('never') }}", "never"),
        ("{% for i in range(100000) %}{{ 'x' * 1000000 }}{% endfor %}", "too large"),
    ],
)
async def test_a_template_that_renders_nothing_is_an_error(template: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        await find_features(template)
