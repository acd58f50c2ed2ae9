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
from backends.llamacpp.image_decoding import ImageError
from backends.llamacpp.image_marks import ImageMarks, in_parts
from backends.llamacpp.image_runs import ImageRun
from backends.llamacpp.native import Model
from backends.llamacpp.reasoning import FORMATS, Begun, ReasoningFormat, begun, detect_format
from backends.llamacpp.thought import ThoughtMarkers, thought_markers
from backends.llamacpp.tools import formats
from backends.llamacpp.tools.formats import ToolFormat
from backends.llamacpp.tools.template import ToolTemplate
from backends.llamacpp.vision import Picture, Vision
from backends.openai_schema import IMAGE_PARTS, ChatCompletionRequest, Message, TokenizeRequest

Segment = tuple[str, bool] | Picture
"""Of a prompt: a text and whether control tokens are read in it, or an image."""


class UnsupportedContent(Exception):
    """A message holds something this model cannot be given; the message says what."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """`inside_reasoning`: what the model says first continues a reasoning block that the prompt opened.

    `after_reasoning`: the prompt closes the block, so that nothing but the answer is left to say.

    The last `n_begun_tokens` are those of an answer, or a thought, that is to be continued; `healing` where the very
    last of them may have been written otherwise. `tools`: how a call would be written. Where `images` are, `tokens`
    holds numbers below 0; they have to be encoded, as the `pictures` they are of, before anything is generated.
    """

    tokens: list[int]
    inside_reasoning: bool = False
    n_begun_tokens: int = 0
    healing: Healing | None = None
    after_reasoning: bool = False
    tools: ToolFormat = formats.HERMES
    images: tuple[ImageRun, ...] = ()
    pictures: tuple[Picture, ...] = ()


class PromptBuilder:
    """Renders and tokenises for one model. Tokenising long texts happens off the event loop."""

    def __init__(
        self, model: Model, *, template: str | None, reasoning: str = "auto", vision: Vision | None = None
    ) -> None:
        self._model = model
        self._vision = vision
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
        """Raises `TemplateError`, `UnsupportedContent` and `ImageError`.

        A final message that is to be continued is not rendered: templates trim it and leave its reasoning out. Its
        text is put, as it is, behind the generation prompt that the answer began with.
        """
        if self._renderer is None:
            raise TemplateError("this model has no chat template: use /v1/completions")
        messages, marks = self._messages(request)
        final = messages.pop() if request.continue_final_message else None
        pictures = await self._vision.look_at(marks.urls) if self._vision is not None else []
        opens_turn = final is not None or request.add_generation_prompt is not False
        shown = await self._tools.show(messages, request.tools or [], offered=request.tool_choice != "none")
        variables = {**request.rendered_kwargs, "tools": shown.tools, "add_generation_prompt": opens_turn}
        try:
            rendered, parts = await self._render(shown.messages, variables, marks, pictures)
        except TemplateError:
            if not pictures:
                raise
            rendered, parts = await self._render(in_parts(shown.messages), variables, marks, pictures)
        answer = self._begun(rendered, final or {"role": "assistant", "content": ""})
        prompt = await asyncio.to_thread(self._prompt, parts, answer)
        closing = self.reasoning.closing if self.reasoning is not None else None
        is_after = closing is not None and rendered.rstrip().endswith(closing)
        return replace(prompt, after_reasoning=is_after, tools=shown.format)

    def _messages(self, request: ChatCompletionRequest | TokenizeRequest) -> tuple[list[dict[str, Any]], ImageMarks]:
        """As templates expect them, with marks in the places of images."""
        given = request.messages or []
        if self._vision is None and any(message.has_image for message in given):
            message = "this engine takes text only: it was started without an image encoder"
            raise ImageError(message, code="images_not_supported")
        if request.continue_final_message and given and given[-1].has_image:
            raise UnsupportedContent("a message that holds an image cannot be continued")
        marks = ImageMarks()
        return [_plain_message(message, marks) for message in given], marks

    async def _render(
        self, messages: list[dict[str, Any]], variables: dict[str, Any], marks: ImageMarks, pictures: list[Picture]
    ) -> tuple[str, list[Segment]]:
        """The prompt's text, and what it is made of."""
        if self._renderer is None:
            raise TemplateError("this model has no chat template: use /v1/completions")
        masked = self._control.mask({**variables, "messages": messages})
        rendered = await self._renderer.render(masked.value)
        cut: list[Segment] = []
        for part in marks.split(rendered):
            cut += segments(part, masked) if isinstance(part, str) else [pictures[part]]
        return rendered, cut

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

    def _prompt(self, parts: Sequence[Segment], answer: Begun) -> Prompt:
        """Tokens of the template's `parts` and, apart from them, of the answer: nothing merges where it begins."""
        bos = [self._model.bos_token] if self._model.adds_bos else []
        tokens, images = list(bos), list[ImageRun]()
        for part in parts:
            if isinstance(part, Picture):
                _add_picture(part, tokens, images)
            else:
                more = self._model.tokenize(part[0], parse_special=part[1])
                tokens += more[1:] if tokens == bos == more[:1] else more  # most templates say it themselves
        begun_tokens = self._tokenize_parts(answer.pieces)
        healing = self._healing(begun_tokens[-1]) if tokens and begun_tokens else None
        pictures = tuple(part for part in parts if isinstance(part, Picture))
        return Prompt(
            tokens + begun_tokens,
            answer.inside_reasoning,
            len(begun_tokens),
            healing,
            images=tuple(images),
            pictures=pictures,
        )

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


def _add_picture(picture: Picture, tokens: list[int], images: list[ImageRun]) -> None:
    """Put an image behind what a prompt holds so far."""
    for part in picture.parts:
        if isinstance(part, list):
            tokens += part
        else:
            images.append(ImageRun(len(tokens), part[0]))
            tokens += part[1]


def _plain_message(message: Message, marks: ImageMarks) -> dict[str, Any]:
    """A message as templates expect it: text in one piece, tool arguments as objects, `developer` as `system`.

    Images go into `marks`.
    """
    plain = message.model_dump(exclude_none=True)
    plain["role"] = "system" if message.role == "developer" else message.role
    if isinstance(message.content, list):
        plain["content"] = "".join(
            marks.add(part) if part.get("type") in IMAGE_PARTS else _text_of(part) for part in message.content
        )
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
