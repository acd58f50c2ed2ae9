"""The JavaScript clients of the contract: OpenAI's SDK, and the adapter with which VS Code Continue speaks to it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.e2e.client import Client, Json, content_of
from tests.e2e.program import KEY

MODEL = "smollm2-135m"


@pytest.fixture(scope="session")
def said() -> dict[str, Json]:
    """What each script printed: one run of each is enough for all tests."""
    return {}


@pytest.fixture
def sdk(node: Callable[..., str], demo: Client, said: dict[str, Json]) -> Json:
    if "sdk" not in said:
        said["sdk"] = json.loads(node("sdk.mjs", f"{demo.base_url}/v1", KEY))
    return said["sdk"]


@pytest.fixture
def adapter(node: Callable[..., str], demo: Client, said: dict[str, Json]) -> Json:
    if "continue" not in said:
        said["continue"] = json.loads(node("continue.mjs", f"{demo.base_url}/v1", KEY))
    return said["continue"]


def test_javascript_sdk_chats(sdk: Json) -> None:
    assert sdk["whole"]["choices"][0]["message"]["content"]
    assert sdk["whole"]["usage"]["completion_tokens"] <= 6


def test_javascript_sdk_streams(sdk: Json) -> None:
    assert content_of(sdk["chunks"])
    assert sdk["chunks"][-1]["usage"]["completion_tokens"] <= 6


def test_javascript_sdk_completes_text_and_lists_models(sdk: Json) -> None:
    assert sdk["text"]["choices"][0]["text"]
    assert [card["id"] for card in sdk["models"]] == [MODEL]
    assert sdk["card"]["max_model_len"] == 8192


def test_javascript_sdk_raises_its_own_errors(sdk: Json) -> None:
    assert sdk["refused"] == {"status": 404, "code": "model_not_found"}


def test_continue_chats(adapter: Json) -> None:
    assert adapter["whole"]["choices"][0]["message"]["content"]


def test_continue_streams_and_is_told_the_usage(adapter: Json) -> None:
    assert content_of(adapter["chunks"])
    assert adapter["chunks"][-1]["usage"]["total_tokens"] > 0


def test_continue_fills_in_the_middle(adapter: Json) -> None:
    assert "".join(chunk["choices"][0]["text"] for chunk in adapter["fim"])
    assert adapter["fimWhole"]["choices"][0]["finish_reason"] in ("stop", "length")
    n_prompt_tokens = adapter["fimWhole"]["usage"]["prompt_tokens"]
    assert 10 < n_prompt_tokens < 40  # three of them are the raw fill-in-the-middle tokens


def test_continue_lists_models_with_their_context(adapter: Json) -> None:
    assert adapter["models"][0]["id"] == MODEL
    assert adapter["models"][0]["max_model_len"] == 8192
