"""A person in front of the page: what they do and see, and what the browser must never have to complain of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import Browser, ConsoleMessage, Locator, Page, Request, expect

from tests.gguf_server.gateway import KEY, Gateway

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
"""A PNG of one pixel, base64."""


@dataclass(slots=True)
class Person:
    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    """Statuses of 400 and more that the page was answered, which the browser complains of by itself."""

    @property
    def question(self) -> Locator:
        return self.page.locator("#question")

    @property
    def answers(self) -> Locator:
        return self.page.locator("article.answer")

    @property
    def status(self) -> Locator:
        return self.page.locator("#answer-status")

    async def open(self, *, key: str | None = KEY, view: str = "chat") -> None:
        """`key`: given in this tab before; without one it is asked for."""
        if key is not None:
            await self.page.add_init_script(f"sessionStorage.setItem('gguf-server.key', {key!r})")
        await self.page.goto(f"{self.url}/ui#{view}")
        if key is None:
            await expect(self.page.locator("#key")).to_be_focused()
        else:
            await expect(self.page.locator("#service option")).not_to_have_count(0)

    async def give_key(self, key: str) -> None:
        await self.page.locator("#key").fill(key)
        await self.page.keyboard.press("Enter")

    async def ask(self, text: str) -> None:
        await self.question.fill(text)
        await self.question.press("Enter")

    async def see_end(self, status: str = "The answer is complete") -> None:
        await expect(self.status).to_contain_text(status)

    async def paste_image(self, name: str, *, how: str, kind: str = "image/png") -> None:
        """`how`: "paste" into the question, or "drop" onto the page."""
        await self.page.evaluate(
            """([base64, name, how, type]) => {
                const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
                const transfer = new DataTransfer();
                transfer.items.add(new File([bytes], name, { type }));
                const init = { bubbles: true, cancelable: true };
                const event = how === "paste"
                    ? new ClipboardEvent("paste", { ...init, clipboardData: transfer })
                    : new DragEvent("drop", { ...init, dataTransfer: transfer });
                document.getElementById("question").dispatchEvent(event);
            }""",
            [PIXEL, name, how, kind],
        )


@asynccontextmanager
async def visit(
    browser: Browser,
    gateway: Gateway,
    *,
    refusals: Collection[int] = (),
    context: Mapping[str, Any] = MappingProxyType({}),
) -> AsyncIterator[Person]:
    """Someone who speaks English, unless told otherwise, with a tab of their own.

    At the end nothing was asked of another host, and the browser had nothing to say, but for answers with the statuses
    `refusals`. A violated Content-Security-Policy would be said.
    """
    tab = await browser.new_context(**{"locale": "en-US", "viewport": {"width": 1280, "height": 800}, **context})
    person = Person(await tab.new_page(), gateway.url)
    host = urlsplit(gateway.url).netloc

    def hear(message: ConsoleMessage) -> None:
        is_told_refusal = refusals and message.text.startswith("Failed to load resource")
        if message.type in ("error", "warning") and not is_told_refusal:
            person.complaints.append(message.text)

    def watch(request: Request) -> None:
        if urlsplit(request.url).netloc != host and not request.url.startswith("data:"):
            person.complaints.append(f"asked elsewhere: {request.url}")

    person.page.on("console", hear)
    person.page.on("pageerror", lambda error: person.complaints.append(str(error)))
    person.page.on("request", watch)
    person.page.on("response", lambda answer: person.refused.append(answer.status) if answer.status >= 400 else None)
    try:
        yield person
        assert person.complaints == []
        assert set(person.refused) == set(refusals)
    finally:
        await tab.close()
