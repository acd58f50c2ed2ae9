"""The shape of JSON: which types are found at which path, over all elements of a list and all chunks of a stream.

`choices[].delta.content: absent|str` says that some choices' deltas have a text and others have no such field.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Shape = dict[str, str]

ABSENT = "absent"
_MAPS = ("logprobs.top_logprobs[]", "prompt_logprobs[]")
"""Objects whose keys are data: tokens."""


def shape_of(values: Iterable[Any]) -> Shape:
    found: dict[str, set[str]] = {}
    _look("", list(values), found)
    return {path: "|".join(sorted(types)) for path, types in sorted(found.items())}


def _look(path: str, siblings: list[Any], found: dict[str, set[str]]) -> None:
    """What stands at one path, in every place where the path leads."""
    objects = [value for value in siblings if isinstance(value, dict)]
    is_map = path.endswith(_MAPS)
    for key in {key for value in objects for key in value} if not is_map else ("*",):
        inner = [value[key] for value in objects if key in value]
        if is_map:
            inner = [each for value in objects for each in value.values()]
        inner_path = f"{path}.{key}" if path else key
        if not is_map and len(inner) < len(objects):
            found.setdefault(inner_path, set()).add(ABSENT)
        if inner:
            found.setdefault(inner_path, set()).update(_type(value) for value in inner)
            _look(inner_path, inner, found)
    elements = [element for value in siblings if isinstance(value, list) for element in value]
    if elements:
        found.setdefault(f"{path}[]", set()).update(_type(element) for element in elements)
        _look(f"{path}[]", elements, found)


def _type(value: Any) -> str:
    return {dict: "object", list: "list", type(None): "null"}.get(type(value), type(value).__name__)
