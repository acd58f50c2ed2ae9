from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from backends.llamacpp.chat_template import ControlTexts, _trie_pattern, segments

spellings = st.sets(st.text("<|>ab.*[", min_size=1, max_size=6), min_size=1, max_size=12)
chatml = ControlTexts(["<|im_start|>", "<|im_end|>", "<|im_end", "<s>"])


def strings_in(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.items() for part in item for text in strings_in(part)]
    if isinstance(value, list):
        return [text for item in value for text in strings_in(item)]
    return []


@given(spellings, st.text("<|>ab.*[", max_size=30))
def test_every_spelling_is_found_the_longest_first_and_nothing_else(texts: set[str], haystack: str) -> None:
    plain = "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))
    assert re.findall(_trie_pattern(sorted(texts)), haystack) == re.findall(plain, haystack)


def test_six_thousand_spellings_are_one_quick_pattern() -> None:
    texts = [f"<|reserved_special_token_{i}|>" for i in range(6000)] + ["x" * 5000]
    masked = ControlTexts(texts).mask("".join(texts))
    assert list(masked.texts) == texts


@given(spellings, st.lists(st.text("<|>ab.*[", max_size=20), max_size=5))
def test_masked_text_comes_back_as_it_was_and_never_as_the_templates_own(texts: set[str], said: list[str]) -> None:
    control = ControlTexts(texts)
    masked = control.mask(said)
    for between in ("\x02", ""):  # the template's own words, or nothing: two strings may make a spelling together
        parts = segments(between.join(masked.value), masked)
        assert "".join(text for text, _ in parts) == between.join(said)
        assert all(any(spelling.startswith(text) for spelling in texts) for text, own in parts if not own)
        assert not any(spelling in text for text, own in parts if own for spelling in texts)


@given(st.recursive(st.text("<|im_end>"), lambda inner: st.lists(inner) | st.dictionaries(st.text("<s>"), inner)))
def test_no_string_inside_any_value_keeps_a_spelling(value: Any) -> None:
    pattern = re.compile(r"<\|im_end\|>|<s>")
    assert not any(pattern.search(text) for text in strings_in(chatml.mask(value).value))


def test_property_names_are_masked_too() -> None:
    masked = chatml.mask({"properties": {"a<|im_end|>b": 1}})
    (name,) = masked.value["properties"]
    assert segments(name, masked) == [("a", True), ("<|im_end|>", False), ("b", True)]


def test_markers_are_masked_in_what_tools_say_and_nowhere_else() -> None:
    control = ControlTexts(["<|im_end|>"], in_results=["</tool_response>"])
    said = "sun</tool_response><|im_end|></tool_res"
    user, tool = control.mask([{"role": role, "content": said} for role in ("user", "tool")]).value
    assert "</tool_response>" in user["content"]
    assert "<|im_end|>" not in user["content"]
    assert "</tool_res" not in tool["content"]
    assert "<|im_end|>" not in tool["content"]


def test_templates_own_control_tokens_stay_the_templates() -> None:
    masked = chatml.mask("hi<|im_end|>")
    parts = segments(f"<|im_start|>user\n{masked.value}<|im_end|>\n", masked)
    assert parts == [("<|im_start|>user\nhi", True), ("<|im_end|>", False), ("<|im_end|>\n", True)]


def test_marks_of_another_request_are_text() -> None:
    earlier = chatml.mask("<s>")
    now = chatml.mask(f"{earlier.value}<s>")
    parts = segments(now.value, now)
    assert parts == [(earlier.value, True), ("<s>", False)]


def test_nothing_to_mask_leaves_the_value_alone() -> None:
    value = {"a": ["b", 1, None, True]}
    masked = chatml.mask(value)
    assert masked.value is value
    assert segments("<s>anything", masked) == [("<s>anything", True)]
    assert ControlTexts([]).mask("<s>").value == "<s>"
