"""What a chat template can do, found out by rendering it where it can do no harm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from backends.llamacpp.chat_template import TemplateError, TemplateRenderer
from backends.llamacpp.reasoning import FORMATS, detect_format
from backends.llamacpp.tools.formats import probe

_MESSAGES: Final = [{"role": "user", "content": "probe"}]
_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class TemplateFeatures:
    """`tools`: how calls are spelt; None where the template shows no tools in a way that is read, and the model is told
    of them in words. `thinking`: which markers stand around thoughts, None for none that are known. `thinks`: whether
    it does so when nobody says, None where `enable_thinking` changes nothing.
    """

    tools: str | None
    thinking: str | None
    thinks: bool | None
    takes_system: bool


async def find_features(template: str) -> TemplateFeatures:
    """Takes a process of its own while it runs. Raises `TemplateError` where not even one message is rendered."""
    renderer = TemplateRenderer(template, {"bos_token": "", "eos_token": ""}, timeout_s=_TIMEOUT_S)

    async def render(variables: dict[str, Any]) -> str | None:
        try:
            return await renderer.render({"add_generation_prompt": True, **variables})
        except TemplateError:
            return None

    try:
        plain = await renderer.render({"add_generation_prompt": True, "messages": _MESSAGES})
        thinking = await render({"messages": _MESSAGES, "enable_thinking": True})
        silent = await render({"messages": _MESSAGES, "enable_thinking": False})
        can = await probe(render)
    finally:
        await renderer.close()
    format_ = detect_format(template)
    return TemplateFeatures(
        tools=can.format.name if can.format else None,
        thinking=next((name for name, known in FORMATS.items() if known is format_), None),
        thinks=None if thinking == silent else plain == thinking,
        takes_system=can.takes_system,
    )
