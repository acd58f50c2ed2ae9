"""Structured output: from the fields of a request that ask for a shape to the guides that hold its answer to it.

OpenAI's `response_format`, vLLM's `structured_outputs`, and `guided_json`, `guided_regex`, `guided_choice` and
`guided_grammar`, which vLLM took before. A chat's answer is held to its shape behind its thought.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Final, TypeVar

import orjson
from pydantic import Field, ValidationError

from backends.llamacpp.grammar import Grammar, GrammarCompiler
from backends.llamacpp.grammar_errors import GrammarError
from backends.llamacpp.guide import MakeGuide
from backends.llamacpp.prompts import Prompt
from backends.llamacpp.reasoning import ReasoningFormat
from backends.llamacpp.requests import ApiError
from backends.openai_schema import ChatCompletionRequest, GenerationRequest, OpenModel, problems

_Fields = TypeVar("_Fields", bound=OpenModel)


class Kind(Enum):
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    GRAMMAR = "grammar"


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer is held to. `param` is the field that said so; `blanks`: JSON may be laid out with white space."""

    kind: Kind
    value: Any
    param: str
    blanks: bool = True

    @property
    def ends_by_itself(self) -> bool:
        """Whether an answer has an end that a stop string could only spoil."""
        return self.kind in (Kind.JSON_SCHEMA, Kind.CHOICE)


class _JsonSchema(OpenModel):
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class _ResponseFormat(OpenModel):
    type: str
    json_schema: _JsonSchema | None = None


class _StructuredOutputs(OpenModel):
    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool | None = None


# Those of vLLM's that would change the answer and are not done.
_UNSUPPORTED: Final = ("structural_tag", "whitespace_pattern", "disable_additional_properties")
_ANY_OBJECT: Final = {"type": "object"}


def constraint(request: GenerationRequest) -> Constraint | None:
    """What a request asks for. Raises `ApiError` 400, naming the field."""
    found = [*_of_response_format(request), *_of_structured_outputs(request), *_of_guided(request)]
    if not found:
        return None
    if len(found) > 1:
        raise _refused(f"there can be one constraint: {found[0].param} and {found[1].param} are two", found[1].param)
    if isinstance(request, ChatCompletionRequest) and request.continue_final_message:
        raise _refused(
            f"continue_final_message does not go with {found[0].param}: an answer is held to it from its beginning",
            "continue_final_message",
        )
    return found[0]


async def compiled(asked: Constraint, compiler: GrammarCompiler) -> Grammar:
    """Raises `ApiError` 400, naming the field and the place in it."""
    try:
        match asked.kind:
            case Kind.JSON_SCHEMA:
                return await compiler.json_schema(asked.value, blanks=asked.blanks)
            case Kind.REGEX:
                return await compiler.regex(asked.value)
            case Kind.CHOICE:
                return await compiler.choice(asked.value)
            case Kind.GRAMMAR:
                return await compiler.lark_or_gbnf(asked.value)
    except GrammarError as error:
        place = f" at {error.place}" if error.place else ""
        raise _refused(f"{asked.param}{place}: {error.message}", asked.param) from error


async def after_thought(
    grammar: Grammar, compiler: GrammarCompiler, reasoning: ReasoningFormat | None, prompt: Prompt
) -> MakeGuide:
    """The guide of a chat's answer, which begins where the thought has ended, or at once if there is none."""
    if reasoning is None or prompt.after_reasoning:
        return grammar.begin
    rule = await compiler.after_marker(reasoning.closing, grammar.begin, opening=reasoning.opening)
    return rule.begin_inside if prompt.inside_reasoning else rule.begin


def _of_response_format(request: GenerationRequest) -> Iterator[Constraint]:
    if request.response_format is None:
        return
    asked = _read(_ResponseFormat, request.response_format, "response_format")
    match asked.type:
        case "text":
            return
        case "json_object":
            yield Constraint(Kind.JSON_SCHEMA, _ANY_OBJECT, "response_format")
        case "json_schema":
            if asked.json_schema is None:
                raise _refused("response_format.json_schema: Field required", "response_format.json_schema")
            yield Constraint(Kind.JSON_SCHEMA, asked.json_schema.schema_, "response_format.json_schema.schema")
        case _:
            raise _refused("response_format.type: there are text, json_object and json_schema", "response_format.type")


def _of_structured_outputs(request: GenerationRequest) -> Iterator[Constraint]:
    if request.structured_outputs is None:
        return
    name = "structured_outputs"
    asked = _read(_StructuredOutputs, request.structured_outputs, name)
    for unsupported in _UNSUPPORTED:
        if (asked.model_extra or {}).get(unsupported):
            param = f"{name}.{unsupported}"
            message = f"the llama.cpp engine does not do {param}"
            raise ApiError(400, message, code="unsupported_parameter", param=param)
    found = [
        *_each(Kind.JSON_SCHEMA, _json(asked.json_, f"{name}.json"), f"{name}.json"),
        *_each(Kind.JSON_SCHEMA, _ANY_OBJECT if asked.json_object else None, f"{name}.json_object"),
        *_each(Kind.REGEX, asked.regex, f"{name}.regex"),
        *_each(Kind.CHOICE, asked.choice, f"{name}.choice"),
        *_each(Kind.GRAMMAR, asked.grammar, f"{name}.grammar"),
    ]
    if not found:
        raise _refused(f"{name}: give one of json, json_object, regex, choice and grammar", name)
    blanks = not asked.disable_any_whitespace
    yield from (Constraint(one.kind, one.value, one.param, blanks) for one in found)


def _of_guided(request: GenerationRequest) -> Iterator[Constraint]:
    yield from _each(Kind.JSON_SCHEMA, _json(request.guided_json, "guided_json"), "guided_json")
    yield from _each(Kind.REGEX, request.guided_regex, "guided_regex")
    yield from _each(Kind.CHOICE, request.guided_choice, "guided_choice")
    yield from _each(Kind.GRAMMAR, request.guided_grammar, "guided_grammar")


def _each(kind: Kind, value: Any, param: str) -> Iterator[Constraint]:
    if value is not None:
        yield Constraint(kind, value, param)


def _json(schema: dict[str, Any] | str | None, param: str) -> Any:
    """A schema, which may be written as a text."""
    if not isinstance(schema, str):
        return schema
    try:
        return orjson.loads(schema)
    except orjson.JSONDecodeError:
        raise _refused(f"{param}: it is not JSON", param) from None


def _read(kind: type[_Fields], value: dict[str, Any], name: str) -> _Fields:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problem = problems(error)[0]
        param = f"{name}.{problem.param}" if problem.param else name
        raise _refused(f"{name}.{problem.message}", param) from error


def _refused(message: str, param: str) -> ApiError:
    return ApiError(400, message, code="invalid_value", param=param)
