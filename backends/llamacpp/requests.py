"""From an OpenAI request to what the step loop is given, or to the 400 that says what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from backends.json_body import read_json
from backends.llamacpp.generation import Generation
from backends.llamacpp.sampling import SamplingParams
from backends.llamacpp.tools import declared
from backends.llamacpp.tools.calls import ToolUse
from backends.openai_schema import (
    ChatCompletionRequest,
    CompletionRequest,
    GenerationRequest,
    OpenModel,
    TemplateFields,
    problems,
)

Body = TypeVar("Body", bound=OpenModel)


_UNSUPPORTED: Final = ("logits_processors", "prompt_logprobs", "use_beam_search")


class ApiError(Exception):
    """An answer in OpenAI's error shape."""

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param

    def body(self) -> dict[str, Any]:
        type_ = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": type_, "param": self.param, "code": self.code}}


def parse(kind: type[Body], raw: bytes) -> Body:
    """Raises `ApiError` 400, naming the field."""
    try:
        body = read_json(raw)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from error
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        problem = problems(error)[0]
        raise ApiError(400, problem.message, code="invalid_value", param=problem.param) from error


def refuse_unsupported(request: ChatCompletionRequest | CompletionRequest) -> None:
    """Raise `ApiError` for what would change the answer and is not done: better refused than quietly left out."""
    extra = request.model_extra or {}
    unsupported = next((name for name in _UNSUPPORTED if extra.get(name)), None)
    if unsupported:
        raise ApiError(
            400, f"the llama.cpp engine does not do {unsupported} yet", code="unsupported_parameter", param=unsupported
        )


def tool_use(request: ChatCompletionRequest) -> ToolUse | None:
    """What may be called in answer, None for nothing. Raises `ApiError`."""
    try:
        return declared.tool_use(request.tools, request.tool_choice, parallel=request.parallel_tool_calls is not False)
    except declared.ToolError as error:
        raise ApiError(400, str(error), code="invalid_value", param=error.param) from None


def generations(
    request: GenerationRequest, prompt: list[int], max_tokens: int | None, *, n_ctx: int, n_vocab: int
) -> list[Generation]:
    """One generation per choice. `max_tokens` shrinks to what the context leaves. Raises `ApiError`."""
    if not prompt:
        raise ApiError(400, "the prompt is empty", code="invalid_value", param="prompt")
    n_left = n_ctx - len(prompt)
    if n_left < 1:
        raise ApiError(
            400,
            f"this model's maximum context length is {n_ctx} tokens, the prompt has {len(prompt)}",
            code="context_length_exceeded",
            param="prompt",
        )
    if "" in request.stops:
        raise ApiError(400, "stop holds an empty text", code="invalid_value", param="stop")
    asked = n_left if max_tokens is None else max_tokens
    if (request.min_tokens or 0) > asked:
        raise ApiError(400, f"min_tokens is more than {asked}", code="invalid_value", param="min_tokens")
    return [
        Generation(
            prompt,
            min(asked, n_left),
            _sampling(request, choice, n_vocab),
            request.stops,
            shows_stop=bool(request.include_stop_str_in_output),
            shows_control=request.skip_special_tokens is False,
        )
        for choice in range(request.n_generated)
    ]


def check_continuation(request: TemplateFields) -> None:
    """Raises `ApiError` for an answer that is to go on and to begin anew."""
    if request.continue_final_message and request.add_generation_prompt:
        message = "continue_final_message and add_generation_prompt exclude each other"
        raise ApiError(400, message, code="invalid_value", param="continue_final_message")


def check_token_ids(tokens: Iterable[int], n_vocab: int, param: str) -> None:
    """Raises `ApiError`."""
    if any(not 0 <= token < n_vocab for token in tokens):
        raise ApiError(400, f"token ids go from 0 to {n_vocab - 1}", code="invalid_value", param=param)


def _sampling(request: GenerationRequest, choice: int, n_vocab: int) -> SamplingParams:
    def given(value: float | None, otherwise: float) -> float:
        return otherwise if value is None else value

    stop_token_ids = frozenset(request.stop_token_ids or ())
    check_token_ids(stop_token_ids, n_vocab, "stop_token_ids")
    return SamplingParams(
        temperature=given(request.temperature, 1.0),
        top_p=given(request.top_p, 1.0),
        top_k=max(request.top_k or 0, 0),
        min_p=given(request.min_p, 0.0),
        repetition_penalty=given(request.repetition_penalty, 1.0),
        presence_penalty=given(request.presence_penalty, 0.0),
        frequency_penalty=given(request.frequency_penalty, 0.0),
        seed=None if request.seed is None else request.seed + choice,
        logit_bias=_logit_bias(request, n_vocab),
        min_tokens=request.min_tokens or 0,
        ignore_eos=bool(request.ignore_eos),
        stop_token_ids=stop_token_ids,
    )


def _logit_bias(request: GenerationRequest, n_vocab: int) -> dict[int, float]:
    try:
        bias = {int(token): value for token, value in (request.logit_bias or {}).items()}
    except ValueError:
        raise ApiError(400, "logit_bias maps token ids to numbers", code="invalid_value", param="logit_bias") from None
    if any(not 0 <= token < n_vocab for token in bias):
        raise ApiError(
            400, f"logit_bias: token ids go from 0 to {n_vocab - 1}", code="invalid_value", param="logit_bias"
        )
    return bias
