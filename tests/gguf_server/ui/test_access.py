"""Whom the page is for: people with a keyboard alone, a screen reader, a phone, dark glass, in two languages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests import node_packages
from tests.gguf_server.gateway import KEY, Gateway, gateway
from tests.gguf_server.ui.person import visit

pytestmark = pytest.mark.asyncio(loop_scope="module")

TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe-core."""
    modules = node_packages.install(Path(__file__).with_name("js"))
    return (modules / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gw() -> AsyncIterator[Gateway]:
    """The first of two engines has failed."""
    thinks = ("--reasoning-words", "40", "--answer-words", "300")
    async with gateway(("--exit-at-load", "1", "--print-before", "x" * 300), thinks, images=True) as started:
        await started.until_up("b")
        yield started


async def violations(page: Page, axe: str) -> list[str]:
    """In both colour schemes."""
    await page.evaluate(axe)
    lines = []
    for scheme, rules in (
        ("light", {"type": "tag", "values": TAGS}),
        ("dark", {"type": "rule", "values": ["color-contrast"]}),
    ):
        await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
        found: dict[str, Any] = await page.evaluate("(rules) => axe.run(document, { runOnly: rules })", rules)
        for rule in found["violations"]:
            lines += [
                f"{scheme}: {rule['id']}: {node['html'][:150]} {node['failureSummary']}" for node in rule["nodes"]
            ]
    return lines


async def test_axe_finds_nothing_in_any_view(browser: Browser, gw: Gateway, axe: str) -> None:
    async with visit(browser, gw) as person:
        page = person.page
        await person.open(key=None)
        assert await violations(page, axe) == []
        await person.give_key(KEY)
        await expect(page.locator("#send")).to_be_enabled()
        await person.paste_image("one.png", how="drop")
        await expect(page.locator("#thumbnails li")).to_have_count(1)
        await person.ask("What is this?")
        await person.see_end()
        await page.locator("details.thought summary").click()
        await person.paste_image("two.png", how="drop")
        await expect(page.locator("#thumbnails li")).to_have_count(1)
        assert await violations(page, axe) == []
        await person.answers.get_by_role("button", name="Code").click()
        assert await violations(page, axe) == []
        await page.keyboard.press("Escape")
        await page.get_by_role("link", name="Dashboard").click()
        await page.locator(".log summary").first.click()
        assert await violations(page, axe) == []


async def test_everything_is_done_by_keyboard(browser: Browser, gw: Gateway) -> None:
    async with visit(browser, gw) as person:
        page, keys = person.page, person.page.keyboard

        async def tab_to(name: str) -> None:
            for _ in range(30):
                await keys.press("Tab")
                told = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
                if name in await page.evaluate(told):
                    return
            raise AssertionError(f"no way to {name!r} by Tab")

        await page.goto(f"{gw.url}/ui")
        await expect(page.locator("#key")).to_be_focused()
        await keys.type(KEY)
        await keys.press("Enter")
        await expect(person.question).to_be_focused()
        await keys.type("One line")
        await keys.press("Shift+Enter")
        await keys.type("and another")
        await keys.press("Enter")
        await person.see_end()
        await expect(page.locator("article.question p")).to_have_text("One line\nand another")
        await expect(person.question).to_be_focused()
        await keys.press("Shift+Tab")
        await expect(page.get_by_role("button", name="Code")).to_be_focused()
        await keys.press("Enter")
        await expect(page.locator("#code-dialog")).to_be_visible()
        await keys.press("Escape")
        await expect(page.get_by_role("button", name="Code")).to_be_focused()
        await page.reload()
        await expect(page.locator("#service option")).to_have_count(1)
        await page.evaluate("document.activeElement.blur()")
        await tab_to("Skip to the content")
        await tab_to("Dashboard")
        await keys.press("Enter")
        await tab_to("Last lines of its log")
        await keys.press("Enter")
        await expect(page.locator(".log pre").first).to_be_visible()


async def test_enter_that_ends_a_composed_letter_sends_nothing(browser: Browser, gw: Gateway) -> None:
    async with visit(browser, gw) as person:
        await person.open()
        await person.question.fill("Tiếng Việ")
        await person.question.dispatch_event("keydown", {"key": "Enter", "isComposing": True})
        await expect(person.question).to_have_value("Tiếng Việ")
        await expect(person.answers).to_have_count(0)


async def test_nothing_is_wider_than_a_phone_where_enter_begins_a_line(browser: Browser, gw: Gateway) -> None:
    phone = {"viewport": {"width": 360, "height": 700}, "is_mobile": True, "has_touch": True}
    async with visit(browser, gw, context=phone) as person:
        page = person.page
        await person.open()
        await page.locator("#options summary").click()
        assert await widths(page) == [360, 360]
        await page.locator("#options summary").click()
        await person.ask("w" * 200)
        await expect(person.question).to_have_value("w" * 200 + "\n")
        await page.locator("#send").tap()
        await expect(person.answers.locator(".facts")).to_be_visible()
        assert await widths(page) == [360, 360]
        await person.answers.locator(".actions button").last.click()
        assert await widths(page) == [360, 360]
        await page.keyboard.press("Escape")
        await page.locator(".bar nav a").last.click()
        await page.locator(".log summary").first.click()
        assert await widths(page) == [360, 360]


async def widths(page: Page) -> list[int]:
    """How far the page and what is on it reach to the right, pixels, in Vietnamese and in English.

    What is inside a part that scrolls sideways, or is only for screen readers, does not count.
    """
    found = []
    for language in ("vi", "en"):
        width = await page.evaluate(
            """async (language) => {
                const select = document.getElementById("language");
                select.value = language;
                select.dispatchEvent(new Event("change"));
                while (document.documentElement.lang !== language) await new Promise(requestAnimationFrame);
                const scrolls = (element) => element.closest("pre, .table-frame, .unseen");
                const reach = [...document.querySelectorAll("body *")]
                    .filter((element) => !scrolls(element))
                    .map((element) => element.getBoundingClientRect().right);
                return Math.max(document.documentElement.scrollWidth, ...reach);
            }""",
            language,
        )
        found.append(round(width))
    return found


async def test_the_language_is_the_browsers_until_another_is_chosen(browser: Browser, gw: Gateway) -> None:
    async with visit(browser, gw, context={"locale": "vi-VN"}) as person:
        await person.open()
        await expect(person.page.locator("html")).to_have_attribute("lang", "vi")
        await expect(person.page.locator("#send")).to_have_text("Gửi")
        await person.ask("Đếm")
        await person.see_end("Đã trả lời xong")
        await person.page.locator("#language").select_option("en")
        await expect(person.page.locator("#send")).to_have_text("Send")
        await expect(person.status).to_contain_text("The answer is complete")
        await expect(person.answers.locator(".facts")).to_contain_text("engine b")
        await person.page.reload()
        await expect(person.page.locator("#send")).to_have_text("Send")
