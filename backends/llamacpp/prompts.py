"""A request's prompt in tokens: template, control tokens kept out of user text, an answer that has begun already."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from backends.llamacpp.chat_template import ControlTexts, TemplateError, TemplateRenderer, segments
from backends.llamacpp.healing import Healing, PieceTable
from backends.llamacpp.native import Model
from backends.llamacpp.reasoning import FORMATS, Begun, ReasoningFormat, begun, detect_format
from backends.llamacpp.thought import ThoughtMarkers, thought_markers
from backends.llamacpp.tools import formats
from backends.llamacpp.tools.formats import ToolFormat
from backends.llamacpp.tools.template import ToolTemplate
from backends.openai_schema import ChatCompletionRequest, Message, TokenizeRequest


class UnsupportedContent(Exception):
    """A message holds something this model cannot be given; the message says what."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """`inside_reasoning`: what the model says first continues a reasoning block that the prompt opened.

    `after_reasoning`: the prompt closes the block, so that nothing but the answer is left to say.

    The last `n_begun_tokens` are those of an answer, or a thought, that is to be continued; `healing` where the very
    last of them may have been written otherwise. `tools`: how a call would be written.
    """

    tokens: list[int]
    inside_reasoning: bool = False
    n_begun_tokens: int = 0
    healing: Healing | None = None
    after_reasoning: bool = False
    tools: ToolFormat = formats.HERMES


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
        self._control = ControlTexts(model.control_texts(), in_results=model.marker_texts)
        markers = [] if self.reasoning is None else [self.reasoning.opening, self.reasoning.closing]
        self._markers = self._show_markers(markers) | self._show_tool_markers()
        self._tools = ToolTemplate(self._render_probe)
        self._table: PieceTable | None = None
        self._thought_markers: ThoughtMarkers | None = None
        self._table_lock = threading.Lock()

    async def start(self) -> None:
        if self._renderer is not None:
            await self._renderer.start()

    async def close(self) -> None:
        if self._renderer is not None:
            await self._renderer.close()

    async def chat(self, request: ChatCompletionRequest | TokenizeRequest) -> Prompt:
        """Raises `TemplateError` and `UnsupportedContent`.

        A final message that is to be continued is not rendered: templates trim it and leave its reasoning out. Its
        text is put, as it is, behind the generation prompt that the answer began with.
        """
        if self._renderer is None:
            raise TemplateError("this model has no chat template: use /v1/completions")
        messages = [_plain_message(message) for message in request.messages or ()]
        final = messages.pop() if request.continue_final_message else None
        shown = await self._tools.show(messages, request.tools or [], offered=request.tool_choice != "none")
        given = {**request.rendered_kwargs, "messages": shown.messages, "tools": shown.tools}
        masked = self._control.mask(given)
        opens_turn = final is not None or request.add_generation_prompt is not False
        rendered = await self._renderer.render({**masked.value, "add_generation_prompt": opens_turn})
        answer = self._begun(rendered, final or {"role": "assistant", "content": ""})
        prompt = await asyncio.to_thread(self._prompt, segments(rendered, masked), answer)
        closing = self.reasoning.closing if self.reasoning is not None else None
        is_after = closing is not None and rendered.rstrip().endswith(closing)
        return replace(prompt, after_reasoning=is_after, tools=shown.format)

    async def _render_probe(self, variables: dict[str, Any]) -> str | None:
        if self._renderer is None:
            return None
        try:
            return await self._renderer.render({"tools": None, **variables, "add_generation_prompt": True})
        except TemplateError:
            return None

    async def text(self, text: str, *, add_special: bool = True) -> list[int]:
        """Tokens of a raw prompt, control tokens included: fill-in-the-middle prompts are made of them."""
        return await asyncio.to_thread(self._model.tokenize, text, add_special=add_special, parse_special=True)

    async def thought_markers(self) -> ThoughtMarkers | None:
        """None for a model that does not reason. Made when first asked for: every token has to be looked at."""
        if self.reasoning is None or self._thought_markers is not None:
            return self._thought_markers
        return await asyncio.to_thread(self._make_thought_markers, self.reasoning)

    def _make_thought_markers(self, format_: ReasoningFormat) -> ThoughtMarkers:
        with self._table_lock:
            if self._thought_markers is None:
                model = self._model
                pieces = ((token, model.piece(token)) for token in range(model.n_vocab))

                def tokenize(text: str) -> list[int]:
                    return model.tokenize(text, parse_special=True)

                self._thought_markers = thought_markers(format_, pieces, tokenize, model.eog_tokens)
            return self._thought_markers

    def _prompt(self, parts: Sequence[tuple[str, bool]], answer: Begun) -> Prompt:
        """Tokens of the template's `parts` and, apart from them, of the answer: nothing merges where it begins."""
        tokens = self._tokenize_parts(parts)
        if self._model.adds_bos and tokens[:1] != [self._model.bos_token]:
            tokens.insert(0, self._model.bos_token)
        begun_tokens = self._tokenize_parts(answer.pieces)
        healing = self._healing(begun_tokens[-1]) if tokens and begun_tokens else None
        return Prompt(tokens + begun_tokens, answer.inside_reasoning, len(begun_tokens), healing)

    def _tokenize_parts(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        """`parts`: (text, whether control tokens are read in it)."""
        tokens: list[int] = []
        for text, parse_special in parts:
            tokens += self._model.tokenize(text, parse_special=parse_special)
        return tokens

    def _healing(self, last: int) -> Healing | None:
        """How to say the last token of a begun answer again; None for one that is not text."""
        if not self._is_text(last):
            return None
        with self._table_lock:
            if self._table is None:
                tokens = filter(self._is_text, range(self._model.n_vocab))
                self._table = PieceTable((token, self._model.piece(token)) for token in tokens)
            return Healing(self._model.piece(last), self._table)

    def _is_text(self, token: int) -> bool:
        return token not in self._markers and token not in self._model.eog_tokens and self._model.piece(token) != b""

    def _begun(self, rendered: str, final: dict[str, Any]) -> Begun:
        """How the answer begins behind `rendered`. A model that does not think is told of no thoughts."""
        if final["role"] != "assistant":
            raise UnsupportedContent("only an assistant's message can be continued")
        content: str = final["content"]
        reasoning = final.get("reasoning_content") or final.get("reasoning") or ""
        if not isinstance(reasoning, str):
            raise UnsupportedContent("the reasoning of the message to be continued is not a text")
        if self.reasoning is not None:
            return begun(self.reasoning, rendered, reasoning, content)
        if reasoning and not content:
            raise UnsupportedContent("this model does not reason: a message that is all reasoning cannot be continued")
        return Begun(((content, False),), inside_reasoning=False)

    def _show_markers(self, markers: Iterable[str]) -> frozenset[int]:
        """Markers that are control tokens have no text of their own: give them theirs, or they would not be seen.

        Returns the tokens that stand for nothing but a marker.
        """
        found = set()
        for marker in markers:
            tokens = self._model.tokenize(marker, parse_special=True)
            hidden = [token for token in tokens if not self._model.piece(token)]
            for token in hidden:
                self._model.show_token(token)
            found.update(tokens if len(tokens) == 1 else hidden)
        return frozenset(found)

    def _show_tool_markers(self) -> frozenset[int]:
        """Of every spelling: which of them the template uses is not known before the first tool."""
        return self._show_markers(marker for format_ in formats.FORMATS for marker in format_.markers)


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
