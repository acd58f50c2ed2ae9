"""The page's two tables of texts, and the files that use them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import gguf_server
from backends.base import EngineState, FailureReason
from gguf_server.api.ui import page_files

FOLDER = Path(gguf_server.__file__).parent / "ui"
TABLES = {name: json.loads((FOLDER / "texts" / f"{name}.json").read_text(encoding="utf-8")) for name in ("en", "vi")}
SOURCES = {path: path.read_text(encoding="utf-8") for path in FOLDER.rglob("*") if path.suffix in (".js", ".html")}
SPOKEN = "".join(SOURCES.values())

# Texts whose key is put together from what the server says: of an engine's state, of a failure, of an error's kind.
PREFIXES = ("state.", "reason.", "advice.", "error.", "engine.", "service.")


def test_both_languages_have_the_same_texts_with_the_same_gaps() -> None:
    assert list(TABLES["en"]) == list(TABLES["vi"])
    for key, text in TABLES["en"].items():
        assert re.findall(r"\{\w+\}", text) == re.findall(r"\{\w+\}", TABLES["vi"][key]) or set(
            re.findall(r"\{\w+\}", text)
        ) == set(re.findall(r"\{\w+\}", TABLES["vi"][key]))
        assert text
        assert TABLES["vi"][key]


def test_every_text_that_is_used_is_there() -> None:
    used = set(re.findall(r'data-(?:text|label|placeholder)="([^"]+)"', SPOKEN))
    used |= set(re.findall(r'"([a-z]+\.[a-z0-9_]+)"', "".join(t for p, t in SOURCES.items() if p.suffix == ".js")))
    assert used - {"gguf-server.key", "gguf-server.language"} - set(TABLES["en"]) == set()


def test_every_text_that_is_there_is_used() -> None:
    assert {key for key in TABLES["en"] if f'"{key}"' not in SPOKEN and not key.startswith(PREFIXES)} == set()


@pytest.mark.parametrize("language", ["en", "vi"])
def test_whatever_the_server_says_of_an_engine_has_words(language: str) -> None:
    table = TABLES[language]
    assert {f"state.{state}" for state in EngineState} <= set(table)
    assert {f"reason.{reason}" for reason in FailureReason} <= set(table)
    assert {f"advice.{reason}" for reason in FailureReason} <= set(table)
    api = (FOLDER / "api.js").read_text(encoding="utf-8")
    kinds = set(re.findall(r'^  \d{3}: "(\w+)"', api, re.MULTILINE)) | set(re.findall(r'ApiError\("(\w+)"', SPOKEN))
    assert {f"error.{kind}" for kind in kinds} <= set(table)


def test_every_file_on_the_disk_is_served_and_every_file_named_is_there() -> None:
    assert set(page_files()) == {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}
    for path, text in SOURCES.items():
        for name in re.findall(r'(?:from|import\() ?"(\.[^"]+)"', text):
            assert (path.parent / name).is_file(), f"{path.name} imports {name}"
    named = re.findall(r'(?:src|href)="ui/([^"]+)"', SOURCES[FOLDER / "index.html"])
    assert set(named) <= set(page_files())
    assert {name for name in page_files() if name.endswith((".js", ".css"))} <= set(named)


def test_nothing_becomes_markup_or_code_and_nothing_comes_from_elsewhere() -> None:
    banned = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|<style|\bstyle=|https?://(?!www\.w3\.org/)"
    for path, text in SOURCES.items():
        code = re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE).replace(r"https?:\/\/", "")
        assert re.findall(banned, code) == [], path.name
    styles = "".join(path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.css"))
    assert re.findall(r"@import|url\(", styles) == []
