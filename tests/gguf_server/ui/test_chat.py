"""Chatting on the page, in a real browser against the real gateway over fake engines."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, FilePayload, Request, Route, expect

from tests.gguf_server.gateway import KEY, Gateway, gateway
from tests.gguf_server.ui.person import PIXEL, visit

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gw() -> AsyncIterator[Gateway]:
    """One engine, which thinks r1 r2 r3 and says w1 … w5; it takes images. Tests disarm what they arm."""
    async with gateway(("--reasoning-words", "3", "--answer-words", "5"), images=True) as started:
        await started.until_up("a")
        yield started


def body_of(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = request.post_data_json or {}
    return body


def messages_of(body: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(message["role"], message["content"]) for message in body["messages"]]


async def test_an_answer_streams_and_its_thought_is_folded(browser: Browser, gw: Gateway) -> None:
    async with visit(browser, gw) as person:
        await person.open()
        await gw.arm("a", "hang", after_words=5)
        await person.ask("Count")
        await expect(person.answers).to_contain_text("w1 w2")
        await expect(person.status).to_have_text("Answering…")
        thought = person.page.locator("details.thought")
        await expect(thought.locator(".thought-text")).to_be_hidden()
        await thought.locator("summary").click()
        await expect(thought.locator(".thought-text")).to_have_text("r1 r2 r3")
        await gw.arm("a", "none")
        await person.see_end()
        await expect(person.answers.locator(".markdown")).to_have_text("w1 w2 w3 w4 w5")
        await expect(person.answers.locator(".facts")).to_contain_text("engine a")
        await expect(person.answers.locator(".facts")).to_contain_text("→ 8 tokens")


async def test_stopping_frees_the_engine_and_keeps_what_was_said(browser: Browser, gw: Gateway) -> None:
    async with visit(browser, gw) as person:
        await person.open()
        await gw.arm("a", "hang", after_words=5)
        for n in range(2):
            await person.ask("Count")
            await expect(person.answers.nth(n)).to_contain_text("w1 w2")
            await (person.page.keyboard.press("Escape") if n else person.page.locator("#stop").click())
            await person.see_end("Stopped")
            await gw.until(lambda: gw.service.n_in_flight == 0)
            await expect(person.answers.nth(n)).to_contain_text("w1 w2")
            await expect(person.question).to_be_focused()
        await gw.arm("a", "none")


async def test_what_was_said_before_is_sent_along(browser: Browser, gw: Gateway) -> None:
    async with visit(browser, gw) as person:
        await person.open()
        await person.page.locator("#system").fill("Be brief.")
        await person.page.locator("#temperature").fill("0.2")
        await person.page.locator("#seed").fill("7")
        await person.page.locator("#thinking").select_option("off")
        await person.ask("First")
        await person.see_end()
        await person.question.fill("Second\nline")
        async with person.page.expect_request("**/v1/chat/completions") as sent:
            await person.question.press("Enter")
        body = body_of(await sent.value)
        answer = "w1 w2 w3 w4 w5"
        assert messages_of(body) == [
            ("system", "Be brief."),
            ("user", "First"),
            ("assistant", answer),
            ("user", "Second\nline"),
        ]
        assert (body["temperature"], body["seed"], body["enable_thinking"]) == (0.2, 7, False)
        assert "top_p" not in body
        await expect(person.answers).to_have_count(2)
        await person.see_end()
        await person.page.locator("#new-conversation").click()
        await expect(person.answers).to_have_count(0)


async def test_an_impossible_setting_is_shown_and_the_question_stays(browser: Browser, gw: Gateway) -> None:
    async with visit(browser, gw) as person:
        await person.open()
        await person.page.locator("#temperature").fill("9")
        await person.ask("Count")
        await expect(person.page.locator("#temperature")).to_be_focused()
        await expect(person.question).to_have_value("Count")
        await expect(person.answers).to_have_count(0)


async def test_images_come_by_drop_paste_and_file_and_can_be_taken_away(browser: Browser, gw: Gateway) -> None:
    async with visit(browser, gw) as person:
        await person.open()
        thumbnails = person.page.locator("#thumbnails li")
        await person.paste_image("one.png", how="drop")
        await expect(thumbnails).to_have_count(1)
        await person.paste_image("two.png", how="paste")
        await expect(thumbnails).to_have_count(2)
        three = FilePayload(name="three.png", mimeType="image/png", buffer=b"\x89PNG")
        await person.page.locator("#image-file").set_input_files(files=[three])
        await expect(thumbnails).to_have_count(3)
        await person.page.get_by_role("button", name="Remove the image two.png").click()
        await expect(thumbnails).to_have_count(2)
        await person.paste_image("four.tiff", how="drop", kind="image/tiff")
        await expect(person.status).to_contain_text("four.tiff: only PNG")
        await person.question.fill("What is this?")
        async with person.page.expect_request("**/v1/chat/completions") as sent:
            await person.question.press("Enter")
        ((_, parts),) = messages_of(body_of(await sent.value))
        assert [part["type"] for part in parts] == ["image_url", "image_url", "text"]
        assert parts[0]["image_url"]["url"] == f"data:image/png;base64,{PIXEL}"
        await person.see_end()
        await expect(thumbnails).to_have_count(0)


async def test_a_model_without_eyes_takes_no_images(browser: Browser) -> None:
    async with gateway(()) as gw, visit(browser, gw) as person:
        await person.open()
        await expect(person.page.locator("#add-image")).to_be_disabled()
        await person.paste_image("one.png", how="drop")
        await expect(person.status).to_have_text("This model takes text only, not images.")


async def test_an_image_is_not_left_out_in_silence(browser: Browser) -> None:
    async with gateway(()) as gw, visit(browser, gw) as person:

        async def add_one_with_eyes(route: Route) -> None:
            body = await (await route.fetch()).json()
            blind = body["services"][0]
            await route.fulfill(json={**body, "services": [{**blind, "path": "/eyes", "images": True}, blind]})

        await person.page.route("**/ui/services", add_one_with_eyes)
        await person.open()
        await person.paste_image("one.png", how="drop")
        await expect(person.page.locator("#thumbnails li")).to_have_count(1)
        await person.page.locator("#service").select_option("")
        await person.ask("What is this?")
        await expect(person.status).to_have_text("This model takes text only, not images.")
        await expect(person.question).to_have_value("What is this?")
        await expect(person.answers).to_have_count(0)


async def test_an_error_inside_a_stream_is_shown_and_the_question_can_be_asked_again(browser: Browser) -> None:
    async with gateway(("--answer-words", "5")) as gw, visit(browser, gw) as person:
        await gw.until_up("a")
        await person.open()
        await gw.arm("a", "error_event", after_words=2, exit_after_s=None)
        await person.ask("Count for me")
        alert = person.answers.get_by_role("alert")
        await expect(alert).to_contain_text("The answer broke off with an error.")
        await expect(person.answers.locator(".markdown")).to_have_text("w1 w2")
        await person.see_end("There is no complete answer")
        await expect(person.page.locator("article.question")).to_contain_text("Count for me")
        await alert.get_by_role("button", name="Edit the question").click()
        await expect(person.question).to_have_value("Count for me")
        await expect(person.answers).to_have_count(0)


async def test_a_service_that_is_not_ready_says_so_and_is_asked_again(browser: Browser) -> None:
    async with gateway(("--load-s", "1000")) as gw, visit(browser, gw, refusals={503}) as person:
        await person.open()
        await person.ask("Count")
        alert = person.answers.get_by_role("alert")
        await expect(alert).to_contain_text("No engine is ready yet.")
        await expect(alert).to_contain_text("Try again in")
        await alert.get_by_role("button", name="Ask again").click()
        await expect(person.page.locator("article.question")).to_have_count(1)
        await person.see_end("There is no complete answer")


async def test_each_refusal_is_told_in_words(browser: Browser, gw: Gateway) -> None:
    told = {403: "may not do that", 429: "Too many requests", 504: "longer than the service allows"}
    async with visit(browser, gw, refusals=told) as person:
        await person.open()

        async def refuse(route: Route) -> None:
            status = next(code for code in told if person.refused.count(code) == 0)
            headers = {"Retry-After": "7"} if status == 429 else {}
            await route.fulfill(status=status, headers=headers, json={"error": {"message": f"because of {status}"}})

        await person.page.route("**/v1/chat/completions", refuse)
        for n, (status, words) in enumerate(told.items()):
            await person.ask("Count")
            alert = person.answers.nth(n).get_by_role("alert")
            await expect(alert).to_contain_text(words)
            await expect(alert).to_contain_text(f"because of {status}")
            assert ("Try again in" in await alert.inner_text()) is (status == 429)


async def test_a_wrong_key_is_refused_and_the_right_one_is_asked_for_once(browser: Browser, gw: Gateway) -> None:
    async with visit(browser, gw, refusals={401}) as person:
        await person.open(key=None)
        await person.give_key("wrong")
        await expect(person.page.locator("#key-problem")).to_contain_text("does not accept this key")
        await person.give_key(KEY)
        await expect(person.page.locator("#key-dialog")).to_be_hidden()
        await person.page.reload()
        await expect(person.page.locator("#service option")).to_have_count(1)
        assert KEY not in await person.page.content()
        await person.page.evaluate("sessionStorage.setItem('gguf-server.key', 'revoked')")
        await person.ask("Count")
        await expect(person.page.locator("#key-dialog")).to_be_visible()
        await person.give_key(KEY)
        await person.answers.get_by_role("button", name="Ask again").click()
        await person.see_end()


async def test_with_the_key_everything_that_was_said_is_forgotten(browser: Browser, gw: Gateway) -> None:
    async with visit(browser, gw) as person:
        await person.open(key=None)
        await person.give_key(KEY)
        await person.page.locator("#system").fill("About Mrs Nguyen")
        await person.ask("Count")
        await person.see_end()
        await person.question.fill("What else")
        await person.page.get_by_role("button", name="API key").click()
        await person.page.get_by_role("button", name="Forget the key").click()
        await expect(person.page.locator("#key")).to_be_focused()
        await expect(person.answers).to_have_count(0)
        await expect(person.question).to_have_value("")
        await expect(person.page.locator("#system")).to_have_value("")
        assert await person.page.evaluate("sessionStorage.length") == 0


async def test_the_answer_goes_on_with_another_engine_and_says_so(browser: Browser) -> None:
    engine = ("--answer-words", "6")
    async with gateway(engine, engine, standby="warm") as gw, visit(browser, gw) as person:
        await gw.until_up("a", "b")
        await person.open()
        await gw.arm("a", "exit", after_words=3)
        await person.ask("Count")
        await person.see_end()
        await expect(person.answers.locator(".markdown")).to_have_text("w1 w2 w3 w4 w5 w6")
        await expect(person.answers.locator(".facts")).to_contain_text("engine b")
        await expect(person.answers.locator(".facts")).to_contain_text("moved to another engine 1×")


async def output_of(gw: Gateway, *command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, "GGUF_SERVER_KEY": KEY},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_the_curl_and_the_python_shown_ask_the_same(browser: Browser, gw: Gateway) -> None:
    async with visit(browser, gw) as person:
        await person.open()
        await person.page.locator("#thinking").select_option("on")
        await person.ask("""It's "quoted" $HOME `id` \\ and 'đúng'\nJSON\n""")
        await person.see_end()
        await person.answers.get_by_role("button", name="Code").click()
        curl = await person.page.locator("#code-curl").inner_text()
        python = await person.page.locator("#code-python").inner_text()
        assert KEY not in curl + python
        assert "data: [DONE]" in await output_of(gw, "bash", "-c", curl)
        assert await output_of(gw, sys.executable, "-c", python) == "w1 w2 w3 w4 w5\n"
        await person.page.keyboard.press("Escape")
        await expect(person.page.locator("#code-dialog")).to_be_hidden()
