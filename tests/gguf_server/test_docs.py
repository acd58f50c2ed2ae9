"""The reading page: whole, harmless, and with nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient
from pytest_aiohttp.plugin import AiohttpClient

from gguf_server.api.docs_page import page
from gguf_server.api.docs_view import pieces
from gguf_server.api.openapi import describe
from tests.gguf_server.listeners import of_presets, shared_listener

_VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """What is in a page: tags that were opened and not closed, ids, links, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.headings: list[int] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [value for name, value in attrs if name in ("href", "src") and value]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
async def client(aiohttp_client: AiohttpClient, tmp_path: Path) -> TestClient:  # type: ignore[type-arg]
    return await aiohttp_client(shared_listener(of_presets("demo", "qwen3", "gemma4"), tmp_path))


def shown(tmp_path: Path, *presets: str) -> tuple[Page, dict]:  # type: ignore[type-arg]
    document = describe(shared_listener(of_presets(*presets), tmp_path))
    return Page(page(document)), document


def test_the_page_is_well_formed_and_its_headings_go_down_one_by_one(tmp_path: Path) -> None:
    page, _ = shown(tmp_path, "demo", "qwen3")
    assert not page.open
    assert len(set(page.ids)) == len(page.ids)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))


def test_nothing_comes_from_elsewhere_and_nothing_runs(tmp_path: Path) -> None:
    page, _ = shown(tmp_path, "demo")
    assert not page.tags & {"script", "iframe", "object", "embed", "form", "img", "link", "base"}
    assert not {name for name in page.attributes if name.startswith("on") or name == "style"}
    assert all(link == "openapi.json" or link.startswith("#") for link in page.links)


def test_every_link_leads_somewhere(tmp_path: Path) -> None:
    page, _ = shown(tmp_path, "demo", "gemma4")
    assert {link.removeprefix("#") for link in page.links if link.startswith("#")} <= set(page.ids)


def test_every_operation_field_and_header_is_shown(tmp_path: Path) -> None:
    page, document = shown(tmp_path, "demo", "qwen3")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert f"{method.upper()} {path}" in page.text
            assert operation["operationId"] in page.ids
    for schema in document["components"]["schemas"].values():
        assert all(field in page.text for field in schema.get("properties", ()))
    assert all(header in page.text for header in document["components"]["headers"])


def test_text_of_the_configuration_is_no_markup(tmp_path: Path) -> None:
    settings = of_presets("demo")
    evil = settings.services["demo"].model_copy(update={"title": "<script>alert(1)</script>", "model": "`<b>`\"'&"})
    html = page(describe(shared_listener(settings.model_copy(update={"services": {"demo": evil}}), tmp_path)))
    assert "<script" not in html
    assert "<b>" not in html
    assert "<script>alert(1)</script>" in Page(html).text


async def test_the_policy_allows_the_pages_own_style_and_nothing_else(client: TestClient) -> None:  # type: ignore[type-arg]
    answer = await client.get("/docs")
    assert answer.content_type == "text/html"
    policy = answer.headers["Content-Security-Policy"]
    style = re.findall(r"<style>(.*?)</style>", await answer.text(), re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (
            {"anyOf": [{"type": "number", "minimum": 0, "maximum": 2}, {"type": "null"}]},
            "number (at least 0, at most 2)",
        ),
        ({"enum": ["a", "b"], "type": "string"}, '"a" or "b"'),
        (
            {"type": "array", "items": {"$ref": "#/components/schemas/Message"}, "minItems": 1},
            "list of Message (at least 1 items)",
        ),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "object of integer"),
        ({}, "anything"),
    ],
)
def test_a_type_is_said_in_words(schema: dict, words: str) -> None:  # type: ignore[type-arg]
    assert "".join(text for text, _ in pieces(schema)) == words
