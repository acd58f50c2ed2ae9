"""A request's prompt in tokens: template, control tokens kept out of user text, reasoning that is already open."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from backends.llamacpp.chat_template import ControlTexts, TemplateError, TemplateRenderer, segments
from backends.llamacpp.native import Model
from backends.llamacpp.reasoning import FORMATS, ReasoningFormat, detect_format, ends_inside
from backends.openai_schema import ChatCompletionRequest, Message, TokenizeRequest


class UnsupportedContent(Exception):
    """A message holds something this model cannot be given; the message says what."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """`inside_reasoning`: what the model says first continues a reasoning block that the prompt opened."""

    tokens: list[int]
    inside_reasoning: bool = False


class PromptBuilder:
    """Renders and tokenises for one model. Tokenising long texts happens off the event loop."""

    def __init__(self, model: Model, *, template: str | None, reasoning: str = "auto") -> None:
        self._model = model
        template = template or model.chat_template
        self.reasoning: ReasoningFormat | None = (
            detect_format(template or "") if reasoning == "auto" else FORMATS.get(reasoning)
        )
        specials = {
            "bos_token": model.token_text(model.bos_token),
            "eos_token": model.token_text(model.eos_token),
        }
        self._renderer = TemplateRenderer(template, specials) if template else None
        self._control = ControlTexts(model.control_texts())
        if self.reasoning is not None:
            self._show_markers(self.reasoning)

    async def start(self) -> None:
        if self._renderer is not None:
            await self._renderer.start()

    async def close(self) -> None:
        if self._renderer is not None:
            await self._renderer.close()

    async def chat(self, request: ChatCompletionRequest | TokenizeRequest) -> Prompt:
        """Raises `TemplateError` and `UnsupportedContent`."""
        if self._renderer is None:
            raise TemplateError("this model has no chat template: use /v1/completions")
        messages = [_plain_message(message) for message in request.messages or ()]
        masked = self._control.mask({**request.template_kwargs, "messages": messages, "tools": request.tools or None})
        end_mark = ""
        if request.continue_final_message:
            end_mark = f"\ue002{secrets.token_hex(8)}\ue003"
            _mark_end(masked.value["messages"], end_mark)
        rendered = await self._renderer.render(
            {
                **masked.value,
                "add_generation_prompt": not request.continue_final_message
                and request.add_generation_prompt is not False,
            }
        )
        if end_mark:
            rendered, found, _ = rendered.rpartition(end_mark)
            if not found:
                raise TemplateError("the chat template does not show the final message: it cannot be continued")
        parts = segments(rendered, masked)
        tokens = await asyncio.to_thread(self._tokenize_parts, parts)
        return Prompt(tokens, self._is_inside(rendered, messages[-1], continued=bool(end_mark)))

    async def text(self, text: str, *, add_special: bool = True) -> list[int]:
        """Tokens of a raw prompt, control tokens included: fill-in-the-middle prompts are made of them."""
        return await asyncio.to_thread(self._model.tokenize, text, add_special=add_special, parse_special=True)

    def _tokenize_parts(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        tokens: list[int] = []
        for text, is_template in parts:
            tokens += self._model.tokenize(text, parse_special=is_template)
        if self._model.adds_bos and tokens[:1] != [self._model.bos_token]:
            tokens.insert(0, self._model.bos_token)
        return tokens

    def _is_inside(self, rendered: str, last: dict[str, Any], *, continued: bool) -> bool:
        if self.reasoning is None:
            return False
        if continued:
            return ends_inside(self.reasoning, str(last.get("content") or ""))
        return rendered.rstrip().endswith(self.reasoning.opening)

    def _show_markers(self, format_: ReasoningFormat) -> None:
        """Markers that are control tokens have no text of their own: give them theirs, or they would not be seen."""
        for marker in (format_.opening, format_.closing):
            for token in self._model.tokenize(marker, parse_special=True):
                if not self._model.piece(token):
                    self._model.show_token(token)


def _plain_message(message: Message) -> dict[str, Any]:
    """A message as templates expect it: text in one piece, tool arguments as objects, `developer` as `system`."""
    plain = message.model_dump(exclude_none=True)
    plain["role"] = "system" if message.role == "developer" else message.role
    if isinstance(message.content, list):
        plain["content"] = "".join(_text_of(part) for part in message.content)
    elif message.content is None:
        plain["content"] = ""
    calls = plain.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            try:
                function["arguments"] = orjson.loads(function["arguments"])
            except orjson.JSONDecodeError:
                continue  # the template shows it as the text it is
    return plain


def _text_of(part: dict[str, Any]) -> str:
    if part.get("type") not in ("text", "input_text", "output_text"):
        raise UnsupportedContent(f"this model takes text only, not {str(part.get('type'))[:40]!r}")
    return str(part.get("text") or "")


def _mark_end(messages: list[dict[str, Any]], mark: str) -> None:
    """Put `mark` at the end of the last message, so that the rendered prompt can be cut there."""
    messages[-1]["content"] = messages[-1]["content"] + mark
