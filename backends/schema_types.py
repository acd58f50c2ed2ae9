"""Types of fields in the bodies of the OpenAI API, with what their JSON schemas say."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, StrictStr, WithJsonSchema


def _as_whole(value: Any) -> Any:
    """JSON knows one kind of number: some clients write 8 as 8.0, and vLLM takes it."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**63
    return int(value) if is_whole else value


SMALLEST_INT: Final = -(2**63)
LARGEST_INT: Final = 2**64 - 1
"""A JSON body is read to integers between these, and to floats beyond."""

_INTEGER: Final = {"type": "integer", "minimum": SMALLEST_INT, "maximum": LARGEST_INT}


def _some(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


WHOLE = BeforeValidator(_as_whole)
Integer = Annotated[int, WHOLE]
Stop = StrictStr | list[StrictStr]
Prompt = (
    Annotated[str, WithJsonSchema({"type": "string", "minLength": 1})]
    | Annotated[list[str], WithJsonSchema(_some({"type": "string"}))]
    | Annotated[list[Integer], WithJsonSchema(_some(_INTEGER))]
    | Annotated[list[list[Integer]], WithJsonSchema(_some({"type": "array", "items": _INTEGER}))]
)
"""A text, several, or token ids of one or several. An empty one is refused, by those who can say so better."""
