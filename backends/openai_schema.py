"""The request bodies of the OpenAI API as engines here take them, shared by the gateway and the llama.cpp worker.

Types are checked strictly (`"0.7"` is not a number); a field nobody knows is accepted, as OpenAI's clients keep adding
some. Ranges are OpenAI's, widened where vLLM is wider.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from backends.schema_types import WHOLE, Integer, Prompt, Stop


class OpenModel(BaseModel):
    """Known fields are typed, unknown ones are kept. Errors never repeat what was sent: it may be a patient's."""

    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)


class SamplingFields(OpenModel):
    """How to choose tokens; None is "not said", which is also what an explicit null means."""

    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = Field(
        None, description="0 always takes the likeliest token."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Of the likeliest tokens, those that make up this share."
    )
    top_k: Annotated[int, Field(ge=-1), WHOLE] | None = Field(
        None, description="Of the likeliest tokens, so many; -1 and 0: all."
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Tokens at least this likely, as a share of the likeliest."
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None, description="Over 1: what was there is made less likely."
    )
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = Field(None, description="As OpenAI's.")
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = Field(None, description="As OpenAI's.")
    seed: Integer | None = Field(None, description="The same seed and request give the same answer on the same engine.")
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, description="Added to the logits, by token id."
    )
    stop: Stop | None = Field(None, description="Texts that end the answer.")
    max_tokens: Annotated[int, Field(ge=1), WHOLE] | None = Field(
        None, description="Most tokens of the answer; less where the context leaves less."
    )
    min_tokens: Annotated[int, Field(ge=0), WHOLE] | None = Field(None, description="The answer does not end before.")
    ignore_eos: bool | None = Field(None, description="Go on to `max_tokens`, whatever the model says.")
    stop_token_ids: list[Integer] | None = Field(None, description="Tokens that end the answer.")
    include_stop_str_in_output: bool | None = Field(None, description="Leave the text that ended the answer in it.")
    bad_words: list[StrictStr] | None = Field(None, description="Texts that may not be in the answer.")
    allowed_token_ids: list[Integer] | None = Field(None, description="No other tokens may be in the answer.")
    skip_special_tokens: bool | None = Field(None, description="False shows special tokens in the text.")
    n: Annotated[int, Field(ge=1, le=16), WHOLE] | None = Field(None, description="Answers to each prompt.")

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def n_generated(self) -> int:
        """Answers to be made for each prompt."""
        return self.n or 1


class StreamOptions(OpenModel):
    include_usage: bool | None = Field(None, description="Close the stream with an event that counts the tokens.")


class GenerationRequest(SamplingFields):
    model: str | None = Field(None, description="One of the service's names; none is as good.")
    stream: bool | None = Field(None, description="Answer as server-sent events.")
    stream_options: StreamOptions | None = None
    logprobs: bool | Integer | None = Field(
        None, description="Tell how likely the tokens were; for text completions, how many of the likeliest."
    )
    response_format: dict[str, Any] | None = Field(
        None, description="`text`, `json_object`, or `json_schema` with a schema, as OpenAI's."
    )
    structured_outputs: dict[str, Any] | None = Field(
        None, description="`json`, `regex`, `choice` or `grammar`, as vLLM's."
    )
    guided_json: dict[str, Any] | str | None = Field(None, description="A JSON schema for the answer.")
    guided_regex: str | None = Field(None, description="A regular expression for the answer.")
    guided_choice: list[str] | None = Field(None, description="The answer is one of these.")
    guided_grammar: str | None = Field(None, description="A grammar for the answer, in Lark's or EBNF form.")

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


IMAGE_PARTS: Final = ("image_url", "input_image", "image")
"""Types of the parts of a message that are images."""


class Message(OpenModel):
    """One turn. `content` is text, a list of parts, or null (an assistant that only called tools)."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None

    @property
    def n_images(self) -> int:
        parts = self.content if isinstance(self.content, list) else []
        return sum(part.get("type") in IMAGE_PARTS for part in parts)

    @property
    def has_image(self) -> bool:
        return self.n_images > 0


class TemplateFields(OpenModel):
    """What the chat template is given besides the messages."""

    chat_template_kwargs: dict[str, Any] | None = Field(None, description="Variables of the model's chat template.")
    enable_thinking: bool | None = Field(None, description="Whether the model thinks before it answers.")
    add_generation_prompt: bool | None = Field(None, description="False: do not begin an assistant's turn.")
    continue_final_message: bool | None = Field(
        None, description="Go on with the last message, which is the assistant's."
    )
    tools: list[dict[str, Any]] | None = Field(None, description="Functions that the model may call, as OpenAI's.")
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = Field(
        None, description="Whether a function is called, or which."
    )

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """`chat_template_kwargs` with `enable_thinking`, which is a short spelling of one of them."""
        kwargs = dict(self.chat_template_kwargs or {})
        if self.enable_thinking is not None:
            kwargs.setdefault("enable_thinking", self.enable_thinking)
        return kwargs

    @property
    def rendered_kwargs(self) -> dict[str, Any]:
        """What an engine's template is given in the end."""
        return self.template_kwargs


class ChatCompletionRequest(GenerationRequest, TemplateFields):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1), WHOLE] | None = Field(
        None, description="The newer name of `max_tokens`, and goes before it."
    )
    parallel_tool_calls: bool | None = Field(None, description="Whether several functions may be called at once.")
    top_logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = Field(
        None, description="So many of the likeliest tokens at each place, with `logprobs`."
    )
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = Field(
        None, description="`none` switches thinking off."
    )
    thinking_token_budget: Annotated[int, Field(ge=-1), WHOLE] | None = Field(
        None, description="Most tokens of a thought; -1: no limit."
    )
    include_reasoning: bool | None = Field(None, description="False: do not send the thoughts.")

    @property
    def rendered_kwargs(self) -> dict[str, Any]:
        """An effort is the template's to read, and switches thinking on or off where nothing else did (as in vLLM)."""
        kwargs = self.template_kwargs
        if self.reasoning_effort is not None:
            kwargs.setdefault("reasoning_effort", self.reasoning_effort)
            kwargs.setdefault("enable_thinking", self.reasoning_effort != "none")
        return kwargs

    @property
    def token_budget(self) -> int | None:
        """`max_completion_tokens`, the newer name, goes before `max_tokens`."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(GenerationRequest):
    """`prompt` is a text, several, or token ids. No tokens at all may be asked for where the prompt is echoed."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"max_tokens": {"const": 0}}, "required": ["max_tokens"]},
            "then": {"properties": {"echo": {"const": True}}, "required": ["echo"]},
        }
    )

    prompt: Prompt = Field(description="What the text begins with.")
    max_tokens: Annotated[int, Field(ge=0), WHOLE] | None = Field(
        None, description="Most tokens of the answer; less where the context leaves less."
    )
    echo: bool | None = Field(None, description="Begin the text with the prompt.")
    suffix: str | None = Field(None, description="What comes after the text, for models that fill in.")
    best_of: Annotated[int, Field(ge=1, le=20), WHOLE] | None = Field(
        None, description="Make so many and give the best `n`."
    )

    @model_validator(mode="after")
    def _something_to_do(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            problem = InitErrorDetails(type="greater_than_equal", loc=("max_tokens",), input=0, ctx={"ge": 1})
            raise ValidationError.from_exception_data(type(self).__name__, [problem], hide_input=True)
        return self

    @property
    def n_generated(self) -> int:
        return self.best_of or self.n or 1


class EmbeddingRequest(OpenModel):
    """`input` is a text, several, or token ids of one or several. `dimensions` cuts the vectors short."""

    model: str | None = None
    input: Prompt = Field(description="What to make vectors of.")
    encoding_format: Literal["float", "base64"] | None = Field(None, description="`base64` is a quarter of the size.")
    dimensions: Annotated[int, Field(ge=1), WHOLE] | None = Field(
        None, description="Cut the vectors to this length, where the model allows."
    )


class TokenizeRequest(TemplateFields):
    """Exactly one of `prompt` and `messages`."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class DetokenizeRequest(OpenModel):
    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0), WHOLE]]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a body: the field at fault (dotted) and a sentence that never repeats the value.

    `is_range`: the type was right and the value impossible.
    """

    param: str | None
    message: str
    is_range: bool


_RANGE_PROBLEMS = frozenset(
    {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number", "literal_error"}
)


def problems(error: ValidationError) -> list[Problem]:
    """What pydantic found, in OpenAI's terms, wrong shapes before impossible values."""
    found = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        # The path through a union names its branches (`str`, `list[str]`): those are no fields.
        param = ".".join(str(part) for part in problem["loc"] if not _is_branch(part)) or None
        message = problem["msg"].removeprefix("Value error, ")
        is_range = problem["type"] in _RANGE_PROBLEMS
        found.append(Problem(param, f"{param}: {message}" if param else message, is_range))
    return sorted(found, key=lambda problem: problem.is_range)


def _is_branch(part: str | int) -> bool:
    return isinstance(part, str) and (part in ("str", "int", "bool", "float") or "[" in part)
