"""Errors of engines as our own: message, param and code from the shapes they have, and what their status amounts to.

    vllm           {"error": {"message", "type", "param", "code": int}}, {"error": str}, {"detail": str}
    llama-server   {"error": {"message", "type", "code": int, "n_prompt_tokens"?, "n_ctx"?}}
    Ollama         {"error": {"message", "type", "param", "code"}}, {"error": str}
    others         OpenAI's own, or FastAPI's {"detail": [{"loc", "msg", "input"}]}

llama-server is the one that says 500 where a request is at fault, and that puts pieces of the request into messages.
"""

from __future__ import annotations

import re
from typing import Any, Final

_UNKNOWN: Final = "the engine refused"
_CONTEXT_CODE: Final = "context_length_exceeded"

_TOO_LONG: Final = re.compile(
    r"maximum context length"
    r"|(exceeds?|larger than) the (available |maximum |max )?(context|model'?s context)"
    r"|context (length|window|size) (is )?exceeded",
    re.IGNORECASE,
)
# Thrown while llama-server reads a request, as errors of its own: it is well, and so would any other be.
_CLIENTS_FAULT: Final = re.compile(
    r"(image|audio|video) input is not supported|does not support multimodal|Failed to load image or audio file"
    r"|Invalid base64 value|Failed to parse (messages|tools|tool call arguments)|Cannot specify grammar with tools"
    r"|Cannot use both json_schema and grammar|requires --jinja|Cannot specify both content and content_parts"
    r'|^"json_schema": |^"prompt" |Failed to tokenize prompt|^\[json\.exception\.(parse|type|out_of_range)'
    r"|^input \(\d+ tokens\) is too large to process"
)
# Of the llama.cpp worker, once it writes: what cannot be followed is the grammar that came with the request.
_GRAMMAR_LOST: Final = re.compile(
    r"^(the grammar (is too complex to go on with|takes too long to follow)|the answer has left its grammar"
    r"|nothing may come next)$"
)
_IMAGE: Final = re.compile(r"^(image|audio|video) input is not supported")
_FIELD: Final = re.compile(r"^Field '([^']+)': ")
_TEMPLATE: Final = re.compile(r"Jinja Exception: (.+)", re.DOTALL)
_DUMP: Final = re.compile(r"(?<=: )(\{|\[\{|\").*|; (tools|messages) = .*", re.DOTALL)


def status_of(status: int, body: dict[str, Any]) -> int:
    """What an engine's status amounts to: 400 for a 500 that another engine would answer likewise."""
    message = str((_error_of(body) or {}).get("message") or "")
    is_clients = _CLIENTS_FAULT.search(message) or _GRAMMAR_LOST.search(message)
    return 400 if status == 500 and is_clients else status


def error_fields(body: dict[str, Any]) -> tuple[str, str | None, str | None]:
    """Message, param and code. The code is OpenAI's `context_length_exceeded` whoever says that, and however."""
    error = _error_of(body)
    if error is None:
        return _plain(body.get("error", body.get("detail")))
    message, param, code = str(error.get("message") or _UNKNOWN), error.get("param"), error.get("code")
    if isinstance(code, int) and "param" not in error:
        message, param, code = _of_llama_server(error, message)
    if _TOO_LONG.search(message):
        code = _CONTEXT_CODE
    if _GRAMMAR_LOST.search(message):
        code = "grammar_not_followed"
    return message, str(param) if param is not None else None, code if isinstance(code, str) else None


def _error_of(body: dict[str, Any]) -> dict[str, Any] | None:
    error = body.get("error", body.get("detail"))
    return error if isinstance(error, dict) else None


def _plain(error: Any) -> tuple[str, str | None, str | None]:
    """A bare string, or FastAPI's list of problems, of which the first is told: they repeat the input."""
    if isinstance(error, list):
        first = error[0] if error and isinstance(error[0], dict) else {}
        where = [str(step) for step in first.get("loc") or () if step != "body"]
        return str(first.get("msg") or _UNKNOWN), ".".join(where) or None, None
    message = str(error or _UNKNOWN)
    return message, None, _CONTEXT_CODE if _TOO_LONG.search(message) else None


def _of_llama_server(error: dict[str, Any], message: str) -> tuple[str, str | None, str | None]:
    if error.get("type") == "exceed_context_size_error":
        n_ctx, n_prompt = error.get("n_ctx"), error.get("n_prompt_tokens")
        if n_ctx and n_prompt:
            message = f"this model's maximum context length is {n_ctx} tokens; the prompt has {n_prompt}"
        return message, "messages", _CONTEXT_CODE
    if template := _TEMPLATE.search(message):
        return f"the chat template refuses these messages: {template[1].strip()}", "messages", None
    if _IMAGE.search(message):
        return message.partition(" - ")[0], "messages", "images_not_supported"
    field = _FIELD.search(message)
    return _DUMP.sub("...", message), field[1] if field else None, None
