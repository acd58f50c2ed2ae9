"""Bodies of `/chat`, and how a body becomes a typed request: 400 for impossible values, 422 for wrong shapes."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from backends.json_body import read_json
from backends.openai_schema import (
    ChatCompletionRequest,
    GenerationRequest,
    Message,
    OpenModel,
    TemplateFields,
    problems,
)
from backends.schema_types import WHOLE
from gguf_server.errors import BadRequest, WrongShape

Body = TypeVar("Body", bound=OpenModel)

Text = Annotated[str, Field(min_length=1)]


class ChatForm(GenerationRequest, TemplateFields):
    """One endpoint, three spellings, told apart by the field that is there: `messages`, `message`, `prompt`."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": [name], "properties": {name: {"type": kind}}}
                for name, kind in (("message", "string"), ("prompt", "string"), ("messages", "array"))
            ]
        }
    )

    message: Text | None = Field(None, description="What to answer.")
    prompt: Text | None = Field(None, description="The same; the model does not think unless told to.")
    messages: Annotated[list[Message], Field(min_length=1)] | None = Field(
        None, description="A whole conversation; the answer is a stream."
    )
    system: str | None = Field(None, description="How to answer, with `message` or `prompt`.")
    system_prompt: str | None = Field(None, description="The same.")
    max_completion_tokens: Annotated[int, Field(ge=1), WHOLE] | None = Field(
        None, description="The newer name of `max_tokens`, and goes before it."
    )

    @property
    def is_simple(self) -> bool:
        return self.messages is None

    def as_chat(self) -> ChatCompletionRequest:
        """The same request in OpenAI's shape. Raises as `parse` does, and when none of the three fields is there."""
        form_fields = {"message", "prompt", "messages", "system", "system_prompt"}
        fields: dict[str, Any] = self.model_dump(exclude_none=True, exclude=form_fields)
        if self.messages is not None:
            messages = [message.model_dump(exclude_none=True) for message in self.messages]
        elif (said := self.message or self.prompt) is not None:
            system = self.system or self.system_prompt
            messages = [{"role": "system", "content": system}] if system else []
            messages.append({"role": "user", "content": said})
            if self.message is None:
                fields.setdefault("enable_thinking", False)  # the default of this spelling
        else:
            raise WrongShape("the body needs one of 'message', 'prompt' and 'messages'", param="messages")
        return validate(ChatCompletionRequest, {**fields, "messages": messages})


def parse(kind: type[Body], raw: bytes) -> Body:
    """Raises `BadRequest` (not JSON, impossible values) and `WrongShape` (anything else)."""
    try:
        body = read_json(raw)
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}", code="invalid_json") from error
    return validate(kind, body)


def validate(kind: type[Body], body: object) -> Body:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        problem = problems(error)[0]
        if problem.is_range:
            raise BadRequest(problem.message, param=problem.param) from error
        raise WrongShape(problem.message, param=problem.param) from error
