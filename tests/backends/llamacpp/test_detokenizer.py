from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.llamacpp.detokenizer import TextStream, overlap

texts = st.text(st.characters(exclude_categories=["Cs"]))
few_letters = st.text("abễ中", max_size=30)
stop_lists = st.lists(st.text("abễ中", min_size=1, max_size=5), max_size=5)


def cut(raw: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(raw[:size])
        raw = raw[size:]
    return [*pieces, raw]


sizes = st.lists(st.integers(0, 6), max_size=60)


@given(texts, sizes)
def test_text_comes_out_whole_however_its_bytes_were_cut(text: str, sizes: list[int]) -> None:
    stream = TextStream()
    pieces = [stream.push(piece) for piece in cut(text.encode(), sizes)]
    assert "".join(pieces) + stream.finish() == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


@given(few_letters, stop_lists, sizes)
def test_text_before_a_stop_string_comes_out_whole_and_no_part_of_it_leaks(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    stream = TextStream(stops)
    shown, taken = "", b""
    for piece in cut(text.encode(), sizes):
        shown += stream.push(piece)
        taken += piece
        assert not any(stop in shown for stop in stops)
        if stream.stopped:
            break
        so_far = taken.decode(errors="ignore")
        assert so_far.startswith(shown)
        assert len(so_far) - len(shown) == max((overlap(so_far, stop) for stop in stops), default=0)
    if stream.stopped:
        so_far = taken.decode(errors="ignore")
        assert len(shown) == min(at for stop in stops if (at := so_far.find(stop)) >= 0)
        assert so_far.startswith(shown)
        assert stream.finish() == ""
    else:
        assert shown + stream.finish() == text
        assert not any(stop in text for stop in stops)


@given(few_letters, st.text("abễ中", min_size=1, max_size=5), sizes)
def test_one_stop_string_ends_the_text_at_the_same_place_however_it_was_cut(
    text: str, stop: str, sizes: list[int]
) -> None:
    stream = TextStream([stop])
    shown = ""
    for piece in cut(text.encode(), sizes):
        if not stream.stopped:
            shown += stream.push(piece)
    assert shown + stream.finish() == text.partition(stop)[0]
    assert stream.stopped == (stop in text)


def test_the_earliest_stop_in_the_text_counts_not_the_first_in_the_list() -> None:
    stream = TextStream(["late", "early"])
    assert stream.push(b"so early and late") == "so "
    assert stream.stopped


def test_character_that_was_never_finished_is_dropped() -> None:
    stream = TextStream(["x"])
    assert stream.push(b"a" + "ễ".encode()[:2]) == "a"
    assert stream.finish() == ""


def test_bytes_that_are_no_text_are_replaced_and_do_not_stop_the_stream() -> None:
    stream = TextStream()
    assert stream.push(b"a\xffb") == "a\ufffdb"
    assert stream.push(b"\xc3") + stream.push(b"(") == "\ufffd("


def test_empty_stop_strings_stop_nothing() -> None:
    stream = TextStream(["", "b"])
    assert stream.push(b"a") == "a"
    assert not stream.stopped


@pytest.mark.parametrize(
    ("text", "marker", "length"),
    [("", "ab", 0), ("xa", "ab", 1), ("ab", "ab", 0), ("aa", "aab", 2), ("aaa", "aab", 2), ("b", "ab", 0)],
)
def test_overlap_is_the_longest_end_that_begins_the_marker(text: str, marker: str, length: int) -> None:
    assert overlap(text, marker) == length
