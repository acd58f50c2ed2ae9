"""What differs between engines that all speak OpenAI's API: counting tokens and going on with a begun answer.

    dialect        tokens of a chat                 of a text    a begun answer
    vllm           POST /tokenize                   the same     is gone on with
    llama-server   POST .../input_tokens            /tokenize    is gone on with; a whole answer repeats its beginning
    openai         estimated (`token_estimate`)     estimated    is not gone on with

How bodies and errors differ is in `dialect_bodies` and `dialect_errors`. Requests go through a function of the
caller's, `Post`, that raises as `EngineClient.post_json` does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from backends.base import Dialect
from gguf_server import token_estimate
from gguf_server.errors import BadRequest, ModelNotFound

Post = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Path and body of a request → its JSON answer."""

_CONTINUE: Final = {"continue_final_message": True, "add_generation_prompt": False}
_TEMPLATE_FIELDS: Final = (
    "model",
    "messages",
    "tools",
    "tool_choice",
    "chat_template_kwargs",
    "reasoning_effort",
    "continue_final_message",
    "add_generation_prompt",
)


async def count_tokens(dialect: Dialect, post: Post, body: Mapping[str, Any]) -> int | None:
    """Prompt tokens of the chat in `body`; None where the chat template refuses it."""
    try:
        match dialect:
            case Dialect.VLLM:
                return int((await post("/tokenize", dict(body)))["count"])
            case Dialect.LLAMA_SERVER:
                return await _count_at_llama_server(post, body)
            case Dialect.OPENAI:
                return token_estimate.of_chat(body)
    except BadRequest:
        return None


async def count_text(dialect: Dialect, post: Post, text: str) -> int:
    """Tokens of a plain text, without special ones."""
    match dialect:
        case Dialect.VLLM:
            return int((await post("/tokenize", {"prompt": text, "add_special_tokens": False}))["count"])
        case Dialect.LLAMA_SERVER:
            return len((await post("/tokenize", {"content": text, "add_special": False}))["tokens"])
        case Dialect.OPENAI:
            return token_estimate.of_text(text)


def can_continue(dialect: Dialect) -> bool:
    """Whether it goes on with an assistant's message rather than answering it."""
    return dialect is not Dialect.OPENAI


def continuation_fields(dialect: Dialect) -> dict[str, Any]:
    """What a chat body needs besides a last message that is the begun answer. Both dialects read the same fields.

    A stream then holds the rest alone, of the reasoning too where `reasoning_content` is all that was begun; both
    spell that `reasoning_content` in a message. Without these fields llama-server sends the beginning once more.
    Raises ValueError where `can_continue` is false.
    """
    if not can_continue(dialect):
        raise ValueError(f"an engine that speaks {dialect} cannot continue an answer")
    return dict(_CONTINUE)


def without_beginning(dialect: Dialect, body: Mapping[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """A whole chat answer to a continuation, holding the rest alone; changed in place.

    llama-server repeats the beginning there, and only there: its streams do without.
    """
    if dialect is not Dialect.LLAMA_SERVER or not body.get("continue_final_message"):
        return answer
    begun = body["messages"][-1]
    for choice in answer.get("choices") or ():
        message = choice.get("message") or {}
        for name in ("content", "reasoning_content"):
            beginning, text = begun.get(name), message.get(name)
            if isinstance(beginning, str) and isinstance(text, str):
                rest = text.removeprefix(beginning)
                had_ended = name == "reasoning_content" and rest.isspace()  # the template's own line feed
                message[name] = "" if had_ended else rest
    return answer


async def _count_at_llama_server(post: Post, body: Mapping[str, Any]) -> int:
    """Asked as for an answer, so that images and the continued message count as they will."""
    asked = {key: body[key] for key in _TEMPLATE_FIELDS if key in body}
    try:
        return int((await post("/v1/chat/completions/input_tokens", asked))["input_tokens"])
    except ModelNotFound:  # an older release: no such path
        prompt = (await post("/apply-template", asked))["prompt"]
        tokens = await post("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})
        return len(tokens["tokens"])
