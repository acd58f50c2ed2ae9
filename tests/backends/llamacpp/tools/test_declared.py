"""What a request declares: what may be called, or a refusal that names the field and repeats nothing."""

from __future__ import annotations

from typing import Any

import pytest

from backends.llamacpp.tools.calls import ToolUse
from backends.llamacpp.tools.declared import ToolError, tool_use


def function(name: Any = "f", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def named(name: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def use(tools: Any, choice: Any = None) -> ToolUse | None:
    return tool_use(tools, choice, parallel=True)


@pytest.mark.parametrize(("tools", "choice"), [(None, None), ([], "auto"), ([], None), ([function()], "none")])
def test_nothing_may_be_called(tools: Any, choice: Any) -> None:
    assert use(tools, choice) is None


@pytest.mark.parametrize(
    ("choice", "required", "names"),
    [
        (None, False, ["f", "a.b-c_1"]),
        ("auto", False, ["f", "a.b-c_1"]),
        ("required", True, ["f", "a.b-c_1"]),
        (named("a.b-c_1"), True, ["a.b-c_1"]),
        ({"function": {"name": "f"}}, True, ["f"]),
    ],
)
def test_choice_says_what_may_be_called(choice: Any, required: bool, names: list[str]) -> None:
    found = use([function(), function("a.b-c_1", description="d", strict=True)], choice)
    assert found is not None
    assert ([tool.name for tool in found.tools], found.required) == (names, required)


def test_parameters_are_an_object_also_where_they_do_not_say_so() -> None:
    found = use([function(), function("g", parameters=None), function("h", parameters={"required": ["x"]})])
    assert found is not None
    assert [tool.parameters["type"] for tool in found.tools] == ["object"] * 3
    assert found.tools[2].parameters["required"] == ["x"]


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ([{"type": "SECRET"}], None, "tools.0.type"),
        ([{"function": {"name": "f"}}], None, "tools.0.type"),
        ([function(), {"type": "function"}], None, "tools.1.function"),
        ([{"type": "function", "function": "SECRET"}], None, "tools.0.function"),
        ([function(None)], None, "tools.0.function.name"),
        ([function("")], "none", "tools.0.function.name"),
        ([function("SECRET name")], None, "tools.0.function.name"),
        ([function("f\n")], None, "tools.0.function.name"),
        ([function("x" * 65)], None, "tools.0.function.name"),
        ([function(description=["SECRET"])], None, "tools.0.function.description"),
        ([function(parameters="SECRET")], None, "tools.0.function.parameters"),
        ([function(parameters={"type": "SECRET"})], None, "tools.0.function.parameters.type"),
        ([function(), function()], None, "tools"),
        ([], "required", "tool_choice"),
        (None, named("f"), "tool_choice"),
        ([function()], named("SECRET"), "tool_choice.function.name"),
        ([function()], named(["SECRET"]), "tool_choice.function.name"),
        ([function()], {"type": "SECRET", "function": {"name": "f"}}, "tool_choice"),
        ([function()], {"type": "function"}, "tool_choice"),
    ],
)
def test_refusal_names_the_field(tools: Any, choice: Any, param: str) -> None:
    with pytest.raises(ToolError) as caught:
        use(tools, choice)
    assert caught.value.param == param
    assert "SECRET" not in str(caught.value)
