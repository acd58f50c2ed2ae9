"""The dashboard, in a real browser against the real gateway over fake engines."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Browser, expect

from gguf_server import gpus
from tests.gguf_server.gateway import gateway
from tests.gguf_server.ui.person import visit

pytestmark = pytest.mark.asyncio(loop_scope="module")

GIB = 1 << 30
CARDS = [
    {"name": "RTX 5060 Ti", "memory_used_bytes": 14 * GIB, "memory_total_bytes": 16 * GIB},
    {"name": "RTX 3060", "memory_used_bytes": 3 * GIB, "memory_total_bytes": 12 * GIB},
]


async def test_engines_are_shown_and_a_failover_with_its_reason(browser: Browser) -> None:
    engine = ("--answer-words", "30")
    async with gateway(engine, engine, standby="warm") as gw, visit(browser, gw) as person:
        await gw.until_up("a", "b")
        await person.page.clock.install()
        await person.open(view="dashboard")
        first, second = person.page.locator(".engine").nth(0), person.page.locator(".engine").nth(1)
        await expect(first.get_by_text("answers now")).to_be_visible()
        await expect(first.locator(".pill")).to_have_text("Ready")
        await expect(second.get_by_text("answers now")).to_be_hidden()
        await expect(person.page.locator("#cards")).to_contain_text("no GPU")
        await expect(person.page.locator(".failovers")).not_to_contain_text("a → b")
        await gw.arm("a", "exit", code=3, after_words=3)
        assert (await gw.ask(stream=True)).n_failovers == 0  # it moved behind its headers
        await gw.until(lambda: gw.link("a").failed_at is not None)
        async with person.page.expect_response("**/status"):
            await person.page.clock.run_for(2100)
        await expect(first.locator(".pill")).to_have_text("Failed")
        await expect(first.locator(".why")).to_contain_text("it crashed")
        await expect(first).to_contain_text("exit code 3")
        await expect(second.get_by_text("answers now")).to_be_visible()
        await expect(person.page.locator("#dashboard-news")).to_have_text("Fake: b answers now.")
        failovers = person.page.locator(".failovers li")
        await expect(failovers.filter(has_text=re.compile("a → b, it (crashed|stopped answering)$"))).to_have_count(1)
        await expect(failovers.filter(has_text="a → b, its answer broke off, requests: 1")).to_have_count(1)
        figures = person.page.locator(".service > .figures")
        await expect(figures).to_contain_text("First token after")
        await expect(figures).to_contain_text("95%:")


async def test_memory_of_each_gpu_is_shown(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "read", lambda: CARDS)
    async with gateway(()) as gw, visit(browser, gw, context={"locale": "vi-VN"}) as person:
        await person.open(view="dashboard")
        cards = person.page.locator("#cards .figure")
        await expect(cards.nth(0)).to_contain_text("GPU 0: RTX 5060 Ti")
        await expect(cards.nth(0)).to_contain_text("14,0 GiB / 16,0 GiB")
        await expect(cards.nth(1)).to_contain_text("3,0 GiB / 12,0 GiB")


async def test_nobody_is_asked_while_nobody_looks(browser: Browser) -> None:
    async with gateway(()) as gw, visit(browser, gw) as person:
        asked = []
        person.page.on("request", lambda request: asked.append(request) if request.url.endswith("/status") else None)
        await person.page.clock.install()
        await person.open(view="dashboard")
        await expect(person.page.locator(".engine")).to_have_count(1)
        for _ in range(2):
            async with person.page.expect_response("**/status"):
                await person.page.clock.run_for(2100)
        await person.page.evaluate(
            """() => {
                Object.defineProperty(document, "hidden", { configurable: true, get: () => true });
                document.dispatchEvent(new Event("visibilitychange"));
            }"""
        )
        n_asked = len(asked)
        await person.page.clock.run_for(60_000)
        assert len(asked) == n_asked
        async with person.page.expect_response("**/status"):
            await person.page.evaluate(
                """() => {
                    Object.defineProperty(document, "hidden", { get: () => false });
                    document.dispatchEvent(new Event("visibilitychange"));
                }"""
            )


async def test_a_server_that_went_away_is_told_and_what_was_known_stays(browser: Browser) -> None:
    async with gateway(()) as gw, visit(browser, gw, refusals={500}) as person:
        await person.page.clock.install()
        await person.open(view="dashboard")
        await expect(person.page.locator(".engine")).to_have_count(1)
        await person.page.route("**/status", lambda route: route.fulfill(status=500, body="gone"))
        await person.page.clock.run_for(2100)
        await expect(person.page.locator("#dashboard-problem")).to_be_visible()
        await expect(person.page.locator(".engine")).to_have_count(1)
        await person.page.unroute("**/status")
        await person.page.clock.run_for(2100)
        await expect(person.page.locator("#dashboard-problem")).to_be_hidden()
