"""Tokens, models, and what else a server tells of itself."""

from __future__ import annotations

from tests.parity.case import CAPITAL, MODEL, PLAIN, Case, Json, user
from tests.parity.cases.calls import WEATHER

MESSAGES: Json = {"model": MODEL, "messages": [user(CAPITAL)]}


def tokenize(name: str, body: Json) -> Case:
    return Case(f"tokens: {name}", "/tokenize", body)


CASES: list[Case] = [
    tokenize("of a text", {"model": MODEL, "prompt": "Hello, Huế! 你好"}),
    tokenize("of a text, no model", {"prompt": "Hello"}),
    tokenize("of a text without special tokens", {"prompt": "Hello", "add_special_tokens": False}),
    tokenize("with their texts", {"prompt": "Hello there", "return_token_strs": True}),
    tokenize("of a chat", MESSAGES),
    tokenize("of a chat without thinking", {**MESSAGES, "chat_template_kwargs": PLAIN}),
    tokenize("of a chat with a tool", {**MESSAGES, "tools": [WEATHER]}),
    tokenize("of a chat that goes on", {
        "messages": [user(CAPITAL), {"role": "assistant", "content": "It is"}],
        "add_generation_prompt": False, "continue_final_message": True}),
    tokenize("of more than the context", {"prompt": " cat" * 600}),
    tokenize("of nothing", {"prompt": ""}),
    tokenize("of neither text nor chat", {"model": MODEL}),
    Case("tokens: back to text", "/detokenize", {"model": MODEL, "tokens": [19556, 28, 905]}),
    Case("tokens: none back to text", "/detokenize", {"tokens": []}),
    Case("tokens: negative", "/detokenize", {"tokens": [-1]}),
    Case("tokens: too high", "/detokenize", {"tokens": [10**6]}),
    Case("models: all", "/v1/models", method="GET"),
    Case("models: health", "/health", method="GET"),
    Case("models: health, posted", "/health", b"", method="POST"),
    Case("models: version", "/version", method="GET"),
]  # fmt: skip
